export PYTHONPATH=/work/w/dense ENDORECON_DATA=/work/shared/data PATH=/work/main/.venv/bin:$PATH; cd /work/w/dense
