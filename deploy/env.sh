#!/bin/sh
# The settings of docker-compose.yml, with new passwords, on standard output:
#
#   sh deploy/env.sh http://honcho.example:8000 > .env
set -eu
umask 077

password() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

cat <<EOF
# Where the turns go, and the key for it if Honcho asks for one.
HONCHO_URL=${1:-http://host.docker.internal:8000}
HONCHO_API_KEY=

# One Redis user for each part, with the rights of deploy/redis/users.acl.
HERMES_GATEWAY_PASSWORD=$(password)
HERMES_WORKER_PASSWORD=$(password)
HERMES_VIEWER_PASSWORD=$(password)
HERMES_FLOWER_PASSWORD=$(password)

# Who may look: Flower's own login, and Grafana's user admin.
FLOWER_BASIC_AUTH=admin:$(password)
GRAFANA_PASSWORD=$(password)
EOF
