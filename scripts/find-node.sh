# Finds Node.js with the package pg, in which a consumer of the tests is written, or installs it. Sourced behind
# find-server.sh.

pgic_has_node_pg() {
    NODE_PATH="${NODE_PATH:-target/node/node_modules}" node -e 'require("pg")' >/dev/null 2>&1
}

if ! pgic_has_node_pg; then
    command -v npm >/dev/null 2>&1 || pgic_install Node.js npm npm npm node || exit 2
    echo "the package pg is not here; installing it with npm into target/node" >&2
    npm install --prefix target/node --no-save --no-audit --no-fund pg@8 || exit 2
fi
