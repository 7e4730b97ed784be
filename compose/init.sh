#!/bin/sh
# Makes the keys of docker-compose.yml's hub and bank at the first `up`, and at every other one sees that they are
# there. In FOLDER, /made by default, are three volumes: hub/ and bank/, each for its own bridge alone, and offline/
# for the root's key, which nothing that runs can read. The configurations that init also writes are not used:
# compose/ holds them.
set -eu
umask 077
folder=${1:-/made}

# `bridge init` writes it last: where it is, everything was written.
if [ ! -e "$folder/hub/hub.json" ]; then
    bridge init --hub riskfuel --edge bank --url tls://hub:8001 --out "$folder" >/dev/null
    echo "init: made the keys"
fi
for file in hub/keys/issuer.key bank/token; do
    if [ ! -s "$folder/$file" ]; then
        echo "init: $file is not there, but other keys are: docker-compose down --volumes, then up" >&2
        exit 1
    fi
done
# The bank's public key, which the hub's configuration lists.
sed -n 's/.*"\(bk1\.bank\.[^"]*\)".*/\1/p' "$folder/hub/hub.json" >"$folder/hub/bank.key"
echo "init: the keys are there"
