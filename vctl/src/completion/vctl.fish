# Completion of vctl for fish. It asks vctl itself, which knows the names in the pool.

function __vctl_complete
    set -l words (commandline --tokenize --current-process --cut-at-cursor)
    set -l current (commandline --current-token --cut-at-cursor)
    set -l program (string replace --regex '^~/' $HOME/ -- $words[1])
    set -l answer (command $program __complete fish $words "$current" 2>/dev/null)
    # The value of an option stands behind its '='.
    set -l option (string match --regex '^--[^=]+=' -- "$current")
    set -l value (string replace --regex '^--[^=]+=' '' -- "$current")
    switch "$answer[1]"
        case files
            for path in (__fish_complete_path $value)
                printf '%s\n' "$option$path"
            end
        case directories
            for path in (__fish_complete_directories $value '')
                printf '%s\n' "$option$path"
            end
        case '*'
            for line in $answer[2..]
                printf '%s\n' $line
            end
    end
end

complete --command vctl --no-files --keep-order --arguments '(__vctl_complete)'
