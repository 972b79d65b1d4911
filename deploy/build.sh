#!/bin/sh
# Builds what is not kept in git. Without arguments: everything that a checkout needs and what an installed package holds.
#   --bpf   the BPF objects (bpf/objects) and their TypeScript layouts (bpf/gen)
#   --dist  dist/: JavaScript and declarations, for the npm package
set -eu
cd "$(dirname "$0")/.."

build_bpf() { sh bpf/build.sh; }
build_dist() { bin/node --disable-warning=ExperimentalWarning deploy/dist.mjs; }

case ${1-} in
  '')
    build_bpf
    build_dist
    ;;
  --bpf) build_bpf ;;
  --dist)
    [ -d bpf/objects ] || build_bpf
    build_dist
    ;;
  *)
    echo "usage: sh deploy/build.sh [--bpf | --dist]" >&2
    exit 2
    ;;
esac
