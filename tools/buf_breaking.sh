#!/bin/sh
# Compares the contracts with those of a git ref: BREAKING_AGAINST, or origin/main, or main; on main itself, with the
# commit before. With no such ref there is nothing to break.
set -eu
against=${BREAKING_AGAINST:-}
for ref in origin/main main; do
    [ -n "$against" ] || ! git rev-parse --verify --quiet "$ref^{commit}" >/dev/null || against=$ref
done
if [ -n "$against" ] && [ "$(git rev-parse "$against")" = "$(git rev-parse HEAD)" ]; then
    against=HEAD~1
fi
if ! git rev-parse --verify --quiet "${against:-none}:protos" >/dev/null; then
    echo "buf breaking: no earlier contracts to compare with"
    exit 0
fi
old=build/breaking
rm -rf "$old" && mkdir -p "$old/protos"
git archive "$against" protos | tar -x -C "$old"
cp -r build/googleapis "$old/googleapis"
printf 'version: v2\nmodules:\n  - path: protos\n  - path: googleapis\n' > "$old/buf.yaml"
npx buf breaking --against "$old"
echo "buf breaking: compatible with $against"
