#!/bin/sh
# npm run bench -- NAME [options]: set-up with what benches need, then the bench. `npm run bench -- --list` names them.
set -eu
cd "$(dirname "$0")/.."
# Set-up talks on standard error: a bench's last line on standard output is its result.
sh deploy/setup.sh --bench >&2
exec bin/node --conditions=headgate-source bench/run.ts "$@"
