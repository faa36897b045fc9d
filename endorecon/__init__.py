"""endorecon: a measured 3D model of the anatomy from a monocular endoscope video.

Research software, not for clinical use. See README.md and `endorecon --help`.
"""

__version__ = "0.1.0"
