#!/bin/sh
# Cutout over REST. Needs a server with its gateway: cutout serve
# Usage: curl.sh PICTURE [GATEWAY]
set -eu
picture=$1
gateway=${2:-http://localhost:8080}

# The picture with everything drawn on it that the words name: a file in, a PNG out.
curl --fail --silent --show-error --data-binary "@$picture" "$gateway/v1/overlay?phrases=face" --output overlay.png

# Upload once, ask as often as you like.
id=$(curl --fail --silent --show-error --data-binary "@$picture" "$gateway/v1/images" |
    sed -n 's/.*"imageId": *"\([^"]*\)".*/\1/p')
curl --fail --silent --show-error "$gateway/v1/segment:text" \
    --json "{\"image\": {\"imageId\": \"$id\"}, \"phrases\": [\"face\"]}"
echo

# Object by object, one JSON document a line.
curl --fail --silent --show-error --no-buffer "$gateway/v1/segment:stream" \
    --json "{\"box\": {\"image\": {\"imageId\": \"$id\"}, \"boxes\": [{\"xMin\": 20, \"yMin\": 20, \"xMax\": 200, \"yMax\": 200}]}}"
curl --fail --silent --show-error --request DELETE "$gateway/v1/images/$id" --output /dev/null
