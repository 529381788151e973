# Completion of vctl for bash. It asks vctl itself, which knows the names in the pool.

_vctl() {
    local program=${1/#\~\//$HOME/} left=${COMP_LINE:0:COMP_POINT} word at kind
    local -a words=() answer=()
    # Bash takes words apart at '=', ':' and '@': what stands together is put together again.
    for ((at = 0; at <= COMP_CWORD; at++)); do
        word=${left#"${left%%[![:space:]]*}"}
        if ((at == 0)) || [[ $word != "$left" || -z $left && -z ${COMP_WORDS[at]} ]]; then
            words+=("")
        fi
        if ((at < COMP_CWORD)); then
            left=${word#"${COMP_WORDS[at]}"}
            word=${COMP_WORDS[at]}
        fi
        words[${#words[@]} - 1]+=$word
    done
    mapfile -t answer < <("$program" __complete bash "${words[@]}" 2>/dev/null)
    kind=${answer[0]-}
    word=${words[${#words[@]} - 1]}
    case $kind in
        files) compopt -o default; COMPREPLY=(); return ;;
        directories) compopt -o default -o dirnames; COMPREPLY=(); return ;;
        list) compopt -o nospace ;;
    esac
    COMPREPLY=()
    # Only what follows the last '=', ':' or '@' is put in the place of the word.
    local before=${word%"$2"}
    for word in "${answer[@]:1}"; do
        word=${word%%$'\t'*}
        COMPREPLY+=("${word#"$before"}")
    done
}

complete -o nosort -F _vctl vctl 2>/dev/null || complete -F _vctl vctl
