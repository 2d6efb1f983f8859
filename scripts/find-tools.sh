# Finds promtool, which checks metrics and alert rules, and faketime, by which a test has a wrong clock, or
# installs them. Sourced behind find-server.sh.

pgic_need_tool() {
    command -v "$1" >/dev/null 2>&1 || pgic_install "$@"
}

pgic_need_tool promtool prometheus golang-github-prometheus prometheus prometheus || exit 2
pgic_need_tool faketime faketime libfaketime libfaketime libfaketime || exit 2
