#!/bin/sh
# npm run demo [-- --keep]: sets up what is missing, then runs the demo.
set -eu
root=$(dirname "$(dirname "$(dirname "$(readlink -f "$0")")")")
sh "$root/deploy/setup.sh"
exec "$root/bin/node" --conditions=headgate-source "$root/examples/demo/demo.ts" "$@"
