#!/bin/sh
# Compiles the kernel programs and writes the TypeScript layouts. Needs clang 14 or newer with the bpf target and libbpf's headers.
# Output: bpf/objects/headgate.bpf.o, bpf/gen/abi.ts
set -eu
root=$(dirname "$(dirname "$(readlink -f "$0")")")
clang=${CLANG:-clang-19}
command -v "$clang" >/dev/null 2>&1 || clang=clang
mkdir -p "$root/bpf/objects" "$root/bpf/gen"
# linux/types.h includes asm/types.h, which Debian keeps in a folder by architecture.
includes="-I/usr/include/$(uname -m)-linux-gnu"
flags="-O2 -g -target bpf -Wall -Wextra -Wno-unused-parameter -Werror $includes ${HEADGATE_BPF_FLAGS:-}"
# shellcheck disable=SC2086
"$clang" $flags -c "$root/bpf/src/headgate.bpf.c" -o "$root/bpf/objects/headgate.bpf.o.tmp"
# shellcheck disable=SC2086
"$clang" $flags -c "$root/bpf/src/abi-types.c" -o "$root/bpf/objects/abi-types.o"
"$root/bin/node" "$root/bpf/generate.ts" "$root/bpf/objects/abi-types.o" "$root/bpf/gen/abi.ts"
rm "$root/bpf/objects/abi-types.o"
mv "$root/bpf/objects/headgate.bpf.o.tmp" "$root/bpf/objects/headgate.bpf.o"
