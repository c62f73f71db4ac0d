# The entry into the new machine: mounts its file systems, makes them its root, and becomes
# a command. The arguments are the root file system; the host's directories of Rust's
# toolchain, of cargo's registry, and of the packages that apt downloads; and the user, the
# working directory and the shell command in the machine.
#
# The mounts are in a namespace of this shell alone. For its parent the root stays a plain
# directory without mounts, so that removing it removes nothing else.
set -eu
root=$1 toolchain=$2 registry=$3 packages=$4 user=$5 directory=$6 command=$7

# A root has to be a mount point.
mount --bind "$root" "$root"
cd "$root"
mkdir -p sys dev proc opt/rust var/cache/cargo/registry var/cache/apt/archives
chmod 1777 var/cache/cargo
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 dev dev
for name in null zero full random urandom tty kvm; do
    # Some hosts lack KVM.
    if [ -e "/dev/$name" ]; then
        : >"dev/$name"
        mount --bind "/dev/$name" "dev/$name"
    fi
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs shm dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
mount --bind "$packages" var/cache/apt/archives
mount --bind -o ro "$toolchain" opt/rust
mount --bind -o ro "$registry" var/cache/cargo/registry

# The caller reads standard error. A message about a failure may be in either stream.
exec >&2
case $user in
root) home=/root become= ;;
*) home=/home/$user become="setpriv --reuid $user --regid $user --init-groups" ;;
esac
# All processes of the PID namespace end with its first one. That is a shell which runs the
# command, because many programs do not expect to be the first process.
exec env -i ${TERM:+"TERM=$TERM"} \
    PATH=/opt/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin "HOME=$home" \
    CARGO_HOME=/var/cache/cargo CARGO_NET_OFFLINE=true \
    unshare --root=. --wd="$directory" --pid --fork --kill-child --mount-proc -- \
    $become sh -c "$command
exit"
