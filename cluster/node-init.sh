#!/bin/bash
# The first process of a node, started in new network, mount, UTS and process namespaces.
# It makes the node's file system, then runs its containerd and its kubelet and starts again what stops.
# When it is killed, the kernel ends everything in the node, and mounts and interfaces go with it.
#
# Usage: node-init.sh NAME DISK PROGRAMS VOLUMES
#   DISK/etc, /usr  what differs from the machine's /etc and /usr
#   DISK/var-lib    the node's /var/lib;  DISK/var-log  its /var/log
#   DISK/log        logs of containerd and kubelet
#   PROGRAMS        folder with kubelet and kubeadm
#   VOLUMES         folder that all nodes share, at /var/lib/volumes
set -eu
name=$1 disk=$2 programs=$3 volumes=$4

# /proc is still the machine's: the first field is the process id that the machine knows this process by.
read -r pid _ < /proc/self/stat
echo "$pid" > "$disk/pid.making"

# Pods share mounts with their node, and the node shares none with the machine (unshare made all private).
mount --make-rshared /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/lock /run/node /run/programs
mount --bind "$disk" /run/node
mount --bind "$programs" /run/programs
for top in etc usr; do
    mount -t overlay overlay -o "lowerdir=/$top,upperdir=/run/node/$top,workdir=/run/node/$top-work" /$top
done
mount --bind /run/node/var-lib /var/lib
mount --bind /run/node/var-log /var/log
mkdir -p /var/lib/volumes
mount --bind "$volumes" /var/lib/volumes
mount -t tmpfs tmpfs /tmp
mount -t proc proc /proc
# The kubelet insists on some settings of the kernel: it is shown them as it wants them and sets none.
while read -r setting value; do
    mkdir -p "/run/kernel/$(dirname "$setting")"
    echo "$value" > "/run/kernel/$setting"
    mount --bind "/run/kernel/$setting" "/proc/sys/$setting"
done <<SETTINGS
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
SETTINGS
# What is the machine's stays as it is: its files, and the settings that have no namespace.
for path in / /proc/sys/kernel /proc/sys/vm /proc/sys/fs; do
    [ $path = / ] || mount --rbind $path $path
    mount -o remount,bind,ro $path
done
hostname "$name"
cd /

supervise() { # NAME COMMAND...
    local log=/run/node/log/$1.log status
    shift
    while true; do
        status=0
        "$@" >> "$log" 2>&1 < /dev/null || status=$?
        echo "$(date --iso-8601=seconds) $1 ended with status $status and is started again" >> "$log"
        sleep 1
    done
}

kubelet() {
    local KUBELET_KUBEADM_ARGS
    . /var/lib/kubelet/kubeadm-flags.env
    # shellcheck disable=SC2086
    /run/programs/kubelet --config=/var/lib/kubelet/config.yaml --kubeconfig=/etc/kubernetes/kubelet.conf \
        --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf $KUBELET_KUBEADM_ARGS
}

supervise containerd containerd &
# kubeadm writes the kubelet's settings, and waits until it runs.
until [ -s /var/lib/kubelet/kubeadm-flags.env ]; do sleep 0.1; done && supervise kubelet kubelet &

mv /run/node/pid.making /run/node/pid
wait
