#!/bin/sh
# npm run demo [-- --keep] [-- --kafka]: sets up what is missing, then runs the demo.
set -eu
root=$(dirname "$(dirname "$(dirname "$(readlink -f "$0")")")")
setup=
for argument in "$@"; do [ "$argument" != --kafka ] || setup=--kafka; done
# npm takes options for itself that come before a lone `--`.
[ -z "${npm_config_kafka:-}" ] || { setup=--kafka; set -- "$@" --kafka; }
sh "$root/deploy/setup.sh" $setup
exec "$root/bin/node" --conditions=headgate-source "$root/examples/demo/demo.ts" "$@"
