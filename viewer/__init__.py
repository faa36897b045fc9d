"""The viewer: run folders seen and measured, on the desktop, in a browser, or as a picture.

It reads run folders and writes only what the user asks it to. Neither torch nor cv2 is in its
process. One `Session` (layers, tools, keys, mouse) serves the three front doors. Not for
clinical use.
"""
