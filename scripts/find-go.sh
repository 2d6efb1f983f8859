# Finds Go with the package lib/pq, in which a consumer of the tests is written, or installs it. Sourced behind
# find-server.sh.

pgic_has_go_pq() {
    command -v go >/dev/null 2>&1 || return 1
    [ -d /usr/share/gocode/src/github.com/lib/pq ] || (cd target/go 2>/dev/null && go list github.com/lib/pq >/dev/null 2>&1)
}

if ! pgic_has_go_pq; then
    command -v go >/dev/null 2>&1 || pgic_install Go golang-go golang go go || exit 2
    if command -v apt-get >/dev/null 2>&1; then
        pgic_install "the package lib/pq" golang-github-lib-pq-dev "" "" "" || exit 2
    else
        echo "the package lib/pq is not here; fetching it with go into target/go" >&2
        mkdir -p target/go
        (cd target/go && { [ -f go.mod ] || go mod init consumer; } && go get github.com/lib/pq@v1.10.7) || exit 2
    fi
fi
