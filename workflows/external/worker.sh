#!/bin/sh
# A worker of a served search in sh, curl, sed and awk: `sh worker.sh RUN`, as often and on as many machines as wanted.
#
# RUN is the campaign's folder. Where it cannot be seen, say where the server is, and with which token:
#     STAFFA_URL=http://127.0.0.1:8787 STAFFA_TOKEN=… sh worker.sh          (STAFFA_CA=ca.pem for https)
#
# Nothing is lost or done twice: a call that got no answer is made again, a question with the same Idempotency-Key; a
# result needs none, the same one told again counts once. `program` below is what you would replace.
set -eu

program() { # x y -> the height of Rosenbrock's valley there
    awk -v x="$1" -v y="$2" 'BEGIN { printf "%.17g", (1 - x) ^ 2 + 100 * (y - x ^ 2) ^ 2 }'
}

run=${1:-}
word() { sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p" "$run/serving.json"; }
where() { if [ -n "$run" ]; then word url; else printf %s "$STAFFA_URL"; fi; }
ca=${STAFFA_CA:-$([ -z "$run" ] || word ca)}
name="sh-$(uname -n)-$$-$(date +%s)"

# In a file of our own: what stands on a command line, everybody on the machine can read.
umask 077
folder=$(mktemp -d)
trial=
leave() {
    [ -z "$trial" ] || once cancel "{\"trials\": [$trial], \"again\": true, \"worker\": \"$name\"}" || true
    [ -z "${beating:-}" ] || kill "$beating" || true
    rm -rf "$folder"
}
trap 'leave >/dev/null 2>&1' EXIT
trap 'exit 0' INT TERM
printf 'Authorization: Bearer %s\n' "${STAFFA_TOKEN:-$([ -z "$run" ] || cat "$run/secrets/write.token")}" >"$folder/token"

# once PATH BODY [KEY] -> the answer; fails where there was none that will do.
once() {
    curl --silent --show-error --fail-with-body --max-time 60 ${ca:+--cacert "$ca"} --header "@$folder/token" \
        ${3:+--header "Idempotency-Key: $3"} --data "$2" "$(where)/v1/$1"
}

# The same, again and again while nobody answers; 22 is curl's word for an answer that says no.
say() {
    for pause in 0 1 1 2 2 5 5 10 10 20 20 30 30 60 60; do
        sleep "$pause"
        once "$@" && return 0 || refused=$?
        [ "$refused" -ne 22 ] || return 22
    done
    return 1
}

# A trial is ours for 300 s from the last word on.
(while sleep 60; do once heartbeat "{\"worker\": \"$name\"}" || true; done) >/dev/null 2>&1 &
beating=$!

number=0
while :; do
    number=$((number + 1))
    said=$(say ask "{\"count\": 1, \"worker\": \"$name\"}" "$name-$number")
    value() { printf %s "$said" | sed -n "s/.*\"$1\":\([^,}]*\).*/\1/p"; }
    trial=$(printf %s "$said" | sed -n 's/.*{"trial":\([0-9]*\),.*/\1/p')
    if [ -z "$trial" ]; then
        case $said in *'"finished":true'*) exit 0 ;; esac
        sleep 1 # others still have trials, which may come back
        continue
    fi
    attempt=$(value attempt)
    if height=$(program "$(value x)" "$(value y)"); then
        body="{\"trial\": $trial, \"attempt\": $attempt, \"values\": {\"height\": $height}}"
    else
        body="{\"trial\": $trial, \"attempt\": $attempt, \"failed\": \"the program ended with $?\"}"
    fi
    say tell "$body" >/dev/null || [ $? -eq 22 ] # 22: somebody else was given the trial, and was first
    trial=
done
