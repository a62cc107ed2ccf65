#!/bin/sh
# Starts Redis with the users of users.acl beside this file, and gives each its password:
#
#   HERMES_GATEWAY_PASSWORD=… HERMES_WORKER_PASSWORD=… HERMES_VIEWER_PASSWORD=… \
#   HERMES_FLOWER_PASSWORD=… deploy/redis/start.sh redis-server --appendonly yes
#
# A user without one stays locked out. HERMES_TASKS_PREFIX is that of the deployment (hermes), and
# HERMES_ACL_FILE the file that is written, with hashes instead of passwords (users.acl in the
# working directory, which for the image of Redis is its volume /data).
set -eu
umask 077

acl=${HERMES_ACL_FILE:-$PWD/users.acl}
prefix=${HERMES_TASKS_PREFIX:-hermes}
edits="s/{hermes}/{$prefix}/g; s/~hermes\\./~$prefix./g"

give() { # user, password
    if [ -n "$2" ]; then
        hash=$(printf %s "$2" | sha256sum | cut -c 1-64)
        edits="$edits; s/^user $1 on resetpass /user $1 on #$hash /"
    fi
}
give hermes-gateway "${HERMES_GATEWAY_PASSWORD:-}"
give hermes-worker "${HERMES_WORKER_PASSWORD:-}"
give hermes-viewer "${HERMES_VIEWER_PASSWORD:-}"
give hermes-flower "${HERMES_FLOWER_PASSWORD:-}"

sed "$edits" "$(dirname "$0")/users.acl" >"$acl"
unset HERMES_GATEWAY_PASSWORD HERMES_WORKER_PASSWORD HERMES_VIEWER_PASSWORD HERMES_FLOWER_PASSWORD
exec "$@" --aclfile "$acl"
