# Starts Triton: $0 are the APIs to close, "$@" is its command. Needs a POSIX shell and od.
umask 077

# What changes the server or reads its insides takes a key that no client has: made at every start and kept in the pod,
# for whoever may exec into it. Anything of the API's objects, a pod's uid say, is also in events and metrics.
key=$(od -An -tx1 -N16 /dev/urandom | tr -d ' \n')
echo "$key" > /tmp/operator-key

# A container whose memory is used up is killed, with every request in it. Triton gives some of its memory back to
# nobody, so before that /state/full asks for a restart (watch-models.lua), which lets requests end: from 85 to 95 % on,
# another share in each pod, because pods that share a load fill up alike.
most=$((85 + $(od -An -tu1 -N1 /dev/urandom) % 11))
rm -f /state/full
(
  umask 022
  cd /sys/fs/cgroup
  used=memory.current limit=memory.max
  if [ -d memory ]; then # cgroup v1
    cd memory
    used=memory.usage_in_bytes limit=memory.limit_in_bytes
  fi
  read -r limit < $limit
  while [ "$limit" != max ]; do
    read -r bytes < $used
    # The pages of files can be had back.
    while read -r name value; do
      case $name in active_file | inactive_file) bytes=$((bytes - value)) ;; esac
    done < memory.stat
    percent=$((bytes / (limit / 100)))
    if [ $percent -lt $most ]; then
      rm -f /state/full
    elif [ ! -e /state/full ]; then
      echo "Triton has taken $percent % of its memory" > /state/filling
      mv /state/filling /state/full
    fi
    sleep 5
  done
) &

exec "$@" --http-restricted-api="$0:operator=$key" --grpc-restricted-protocol="$0:operator=$key"
