#!/usr/bin/env bash
# A task service in bash, without library or NATS client: the NATS protocol is lines of text over TCP.
#
#   NATS_URL=nats://127.0.0.1:4222 ./service.sh        (user:password@ before the host, if need be; no TLS)
#
# A task is a function. Its argument is the request, as in docs/task-services.md; what it prints is the reply. If it
# returns non-zero, what it printed is the error. With jq at hand, `jq -r .state.word <<<"$1"` beats these patterns.
# One request at a time: start several, they share a queue group.
set -u
trap '' PIPE
export LC_ALL=C # lengths are in bytes

shout() { # changes a field of the state
  [[ $1 =~ \"word\":\"([^\"\\]*)\" ]] || { echo "shout needs a plain string \`word\` in the state" && return 1; }
  printf '{"changes":{"word":"%s!"}}' "${BASH_REMATCH[1]^^}"
}

approve() { # waits for a person: the flow is interrupted, and once it is resumed this runs again with the answer
  if [[ $1 =~ \"deadline\":\"[^\"]*\",\"resumed\":\{\"data\":(.*)\}\}$ ]]; then
    printf '{"changes":{"answer":%s}}' "${BASH_REMATCH[1]}"
  elif [[ $1 == *'"resumed":{"timedOut":true}}' ]]; then
    printf '{"changes":{"answer":"nobody came"}}'
  else
    printf '{"interrupt":{"question":"may it be shouted?"},"interruptTimeoutMs":%d}' "$(number patience 86400000 "$1")"
  fi
}

bell() { # waits for an event, which may have come before; then this runs again, with what came with it
  if [[ $1 =~ \"deadline\":\"[^\"]*\",\"event\":\{\"data\":(.*),\"id\":\"[^\"]*\",\"at\":\"[^\"]*\"\}\}$ ]]; then
    printf '{"changes":{"rung":%s}}' "${BASH_REMATCH[1]}"
  elif [[ $1 == *'"event":{"timedOut":true}}' ]]; then
    printf '{"changes":{"rung":false}}'
  else
    printf '{"wait":{"event":"shell.bell","key":"%d","timeoutMs":%d}}' "$(number door 0 "$1")" "$(number patience 86400000 "$1")"
  fi
}

moody() { # fails twice and says nothing of another attempt: the node in the graph does, see words.yaml
  (($(number attempt 0 "$1") > 1)) || { echo "not in the mood" && return 1; }
  printf '{"changes":{"mood":"fine"}}'
}

words() { # no task, but any service: text in, JSON out; words.yaml asks it by a node
  printf '{"words":%d}' "$(wc -w <<<"$1")"
}

number() { # a whole number of the request by its name, and what it is if there is none
  [[ $3 =~ \"$1\":([0-9]+) ]] && echo "${BASH_REMATCH[1]}" || echo "$2"
}

flaky() { # runs again until it works; the error is for the day it gives up
  [[ $1 =~ \"attempt\":([0-9]+) ]]
  if ((BASH_REMATCH[1] < 2)); then
    printf '{"retry":{"maxAttempts":5,"initialDelayMs":20,"multiplier":2},"error":{"message":"not yet","code":504}}'
  else
    printf '{"changes":{"attempts":%d}}' "$((BASH_REMATCH[1] + 1))"
  fi
}

declare -A tasks=([shell.shout]=shout [shell.approve]=approve [shell.flaky]=flaky [shell.bell]=bell [shell.moody]=moody)

quoted() { # a text as a JSON string
  local text=${1//\\/\\\\}
  text=${text//\"/\\\"}
  printf '"%s"' "${text//[[:cntrl:]]/ }"
}

declare -A services=([shell.words]=words)
prefix=${TASK_PREFIX:-task}
for url in "${!tasks[@]}"; do services[$prefix.$url]=${tasks[$url]}; done
address=${NATS_URL:-nats://127.0.0.1:4222}
address=${address#*://} login="" stopping=0 unsubscribe=()
[[ $address == *@* ]] && login=${address%@*} address=${address##*@}
host=${address%%:*} port=${address#"$host"} port=${port#:} port=${port:-4222}

send() { printf '%s\r\n' "$@" 2>/dev/null >&3; }

serve() { # from connecting to the end of the connection
  local line verb subject sid reply size body answer
  { exec 3<>"/dev/tcp/$host/$port"; } 2>/dev/null || return
  send "CONNECT {\"verbose\":false,\"name\":\"shell-tasks\",\"lang\":\"bash\",\"version\":\"1\"${login:+,\"user\":$(
    quoted "${login%%:*}"),\"pass\":$(quoted "${login#*:}")}}"
  unsubscribe=()
  for subject in "${!services[@]}"; do
    unsubscribe+=("UNSUB $((${#unsubscribe[@]} + 1))")
    send "SUB $subject shell-tasks ${#unsubscribe[@]}"
  done
  send PING
  while IFS= read -r line <&3; do
    read -r verb subject sid reply size <<<"${line%$'\r'}"
    case $verb in
    PING) send PONG ;;
    PONG) ((stopping)) && exit 0 || echo "serving ${!tasks[*]}" ;;
    -ERR) echo "$line" >&2 ;;
    MSG)
      [[ -n $size ]] || { size=$reply && reply=""; }
      IFS= read -r -N $((size + 2)) body <&3
      answer=$("${services[$subject]}" "${body%$'\r\n'}" 3>&-) || answer="{\"error\":$(quoted "$answer")}"
      [[ -z $reply ]] || send "PUB $reply ${#answer}" "$answer"
      ;;
    esac
  done
}

# Told to stop, it takes no more requests, answers those it has, and ends at the PONG.
trap 'stopping=1; send "${unsubscribe[@]}" PING || exit 0' TERM INT
while ((!stopping)); do serve; sleep 1; done
