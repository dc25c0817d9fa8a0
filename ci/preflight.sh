#!/usr/bin/env bash
# Checks the memory budgets of the working tree, compares them with those of a base commit, and keeps one comment of a
# pull request up to date. Needs memprof and its Python on the PATH, git, and gh for the comment. What it is told comes
# from the environment, and none of it is ever run:
#
#     CONFIG        the config of the checks; memprof looks for one where this is empty
#     BASE          full hash of the commit to compare with; none where it is empty
#     PULL_REQUEST  number to comment on; no comment where it is empty
#     NAME          tells the comment from others that this script keeps: letters, digits, _ and -
#     GH_TOKEN, GITHUB_REPOSITORY  for gh
#
# Where the repository commits no baseline, the base is one: max_increase is then held against it. Exit codes are those
# of memprof check; a comment that cannot be written is a warning.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
base=${BASE:-}
pull_request=${PULL_REQUEST:-}
name=${NAME:-preflight}

refuse() {
    echo "::error title=memprof::$1"
    exit 2
}
[[ $base =~ ^([0-9a-f]{40,64})?$ ]] || refuse "base must be the full hash of a commit"
[[ $pull_request =~ ^[0-9]*$ ]] || refuse "the pull request must be a number"
[[ $name =~ ^[A-Za-z0-9_-]+$ ]] || refuse "name may hold letters, digits, _ and - alone"
marker="<!-- memprof: $name -->"

work=$(mktemp -d)
trap 'git worktree remove --force "$work/tree" 2>/dev/null || true; rm -rf "$work"' EXIT

check() {
    memprof check ${CONFIG:+--config "$CONFIG"} "$@"
}

# The base in a tree of its own, beside the one that is checked; files of Git LFS stay pointers.
estimate_base() {
    { git cat-file -e "$base^{commit}" 2>/dev/null || git fetch --quiet --no-tags --depth=1 origin "$base"; } &&
        GIT_LFS_SKIP_SMUDGE=1 git worktree add --quiet --detach "$work/tree" "$base" &&
        cd "$work/tree" &&
        check --exit-zero --baseline "$work/baseline.json" --update-baseline \
            --output "json:$work/base.json" --output "markdown:$work/base.md"
}

# Only a bot's comment is edited: a person may quote the marker.
publish() {
    local comments=repos/$GITHUB_REPOSITORY/issues/$pull_request/comments mine
    mine=$(gh api --paginate "$comments?per_page=100" \
        --jq ".[] | select(.user.type == \"Bot\" and (.body | startswith(\"$marker\"))) | .id") || return
    mine=${mine%%$'\n'*}
    if [[ -n $mine ]]; then
        gh api --silent --method PATCH "repos/$GITHUB_REPOSITORY/issues/comments/$mine" --field "body=@$work/comment.md"
    else
        gh api --silent --method POST "$comments" --field "body=@$work/comment.md"
    fi
}

baseline=
if [[ -n $base ]] && (estimate_base) 2>"$work/base.err"; then
    check --exit-zero --output "json:$work/own.json" 2>/dev/null || true
    if grep -qs '^  "baseline": null' "$work/own.json"; then
        baseline=$work/baseline.json
    fi
fi

status=0
check ${baseline:+--baseline "$baseline"} --output github --output "json:$work/head.json" \
    --output "markdown:$work/head.md" 2>"$work/head.err" || status=$?
grep -v "^wrote $work/" "$work/head.err" >&2 || true

if [[ -n $pull_request ]]; then
    { echo "$marker" && python3 "$here/comment.py" "$work" "$base"; } >"$work/comment.md"
    if ! publish; then
        echo "::warning title=memprof::the comment could not be written (the token of a pull request from a fork may" \
            "only read); the report stands in the summary of this run"
    fi
fi
exit "$status"
