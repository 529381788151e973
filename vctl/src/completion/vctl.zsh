#compdef vctl
# Completion of vctl for zsh. It asks vctl itself, which knows the names in the pool.

_vctl() {
    local program=${(Q)words[1]/#\~\//$HOME/} kind line value
    local -a typed answer values shown
    typed=("${(@Q)words[1,CURRENT-1]}" "${(Q)PREFIX}")
    answer=("${(@f)$("$program" __complete zsh "${(@)typed}" 2>/dev/null)}")
    kind=${answer[1]}
    case $kind in
        files|directories)
            compset -P '--*='
            if [[ $kind == files ]]; then _files; else _files -/; fi
            return ;;
    esac
    for line in "${(@)answer[2,-1]}"; do
        value=${line%%$'\t'*}
        values+=("$value")
        if [[ $line == *$'\t'* ]]; then
            shown+=("${(r:24:)value}  ${line#*$'\t'}")
        else
            shown+=("$value")
        fi
    done
    (( $#values )) || return 1
    if [[ $kind == list ]]; then
        compadd -V vctl -S '' -a values
    elif [[ "$shown" == "$values" ]]; then
        compadd -V vctl -a values
    else
        compadd -V vctl -l -d shown -a values
    fi
}

if [[ ${funcstack[1]-} == _vctl ]]; then
    _vctl "$@"
else
    compdef _vctl vctl
fi
