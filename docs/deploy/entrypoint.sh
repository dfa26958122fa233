#!/bin/sh
# Numba reads compiled loops only from a folder that it may write to. A read-only container has just /tmp for that, so
# the loops compiled while the image was built are copied there. Without a writable /tmp, they are compiled again.
set -eu
mkdir -p "${NUMBA_CACHE_DIR}" 2>/dev/null && cp -R "${CELLSAM_LOOPS}/." "${NUMBA_CACHE_DIR}" 2>/dev/null || true
exec cellsam-engine "$@"
