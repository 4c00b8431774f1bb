# shellcheck shell=bash
# A private PostgreSQL for scripts: on a Unix socket only, in a folder of its own, gone with the script.
# Sourced. `start_postgres FOLDER [SETTING…]` sets SOCKET; `stop_postgres` ends it.

# PostgreSQL refuses to run as root.
as_server() {
    if [[ $EUID -eq 0 ]]; then
        (cd / && exec setpriv --reuid=postgres --regid=postgres --clear-groups env -i PATH="$PATH" LC_ALL=C.UTF-8 "$@")
    else
        (cd / && exec env LC_ALL=C.UTF-8 "$@")
    fi
}

# The programs of the newest installed PostgreSQL.
newest_bin_dir() {
    local found
    found=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort --version-sort | tail -n 1)
    [[ -x $found/initdb ]] || { echo 'PostgreSQL is not installed: ./dev setup' >&2; return 1; }
    echo "$found"
}

# The socket's folder is closed to everyone but the server's user and root, so the server itself may trust.
start_postgres() {
    SOCKET=$1
    shift
    local setting settings="-k $SOCKET -c listen_addresses="
    for setting in "$@"; do settings+=" -c $setting"; done
    # The path of a Unix socket has at most 107 bytes.
    [[ ${#SOCKET} -le 90 ]] || { echo "the path of the temporary folder is too long: $SOCKET" >&2; return 1; }
    mkdir "$SOCKET"
    chmod 0700 "$SOCKET"
    if [[ $EUID -eq 0 ]]; then chown postgres: "$SOCKET"; fi
    as_server initdb --username=postgres --auth=trust --encoding=UTF8 --locale=C.UTF-8 --no-sync --pgdata "$SOCKET/data" >/dev/null
    as_server pg_ctl start --wait --silent --log "$SOCKET/log" --options "$settings" --pgdata "$SOCKET/data"
}

stop_postgres() {
    [[ -n ${SOCKET:-} && -e $SOCKET/data/postmaster.pid ]] || return 0
    as_server pg_ctl stop --wait --mode=immediate --silent --pgdata "$SOCKET/data"
}

# The URL of a database of the private server.
url_of() { echo "postgres://postgres@/$1?host=$SOCKET"; }
