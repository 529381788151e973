export VCTL_POOL=/tmp/pool

# A pool of a block device and an image file.
truncate -s 1G /tmp/device.img
device=$(losetup -f --show /tmp/device.img)
vctl pool create
vctl disk add "$device" --name device
vctl disk add /tmp/image.img --create 1G
vctl volume create fs 256M --on device
vctl volume create vm 256M --on device
vctl apparatus start a1 /tmp/a1
vctl apparatus start a2 /tmp/a2

# ext4 on one volume, a VM's image on the other.
loop=$(vctl volume attach fs --apparatus a1)
mkfs.ext4 -q "$loop"
mkdir /tmp/mnt
mount "$loop" /tmp/mnt
qemu-img create -q -f qcow2 /tmp/guest.qcow2 256M
qemu-io -c 'write -q -P 0x5a 0 64M' /tmp/guest.qcow2
qemu-img convert -n -f qcow2 -O raw /tmp/guest.qcow2 /tmp/a2/vm

# Both in use: each write is noted once it is acknowledged and durable.
(
    set +x
    n=0
    while [ ! -e /tmp/stop ]; do
        n=$((n + 1))
        echo "words of $n" > /tmp/mnt/$n
        sync /tmp/mnt/$n
        echo $n > /tmp/files.new && mv /tmp/files.new /tmp/files
    done
) &
writer=$!
(
    set +x
    n=0
    while [ ! -e /tmp/stop ]; do
        n=$((n + 1))
        qemu-io -f raw -t none -c "write -q -P $((n % 255 + 1)) $((64 + n % 64))M 1M" -c flush /tmp/a2/vm
        echo $n > /tmp/writes.new && mv /tmp/writes.new /tmp/writes
    done
) &
guest=$!
until [ -e /tmp/files ] && [ -e /tmp/writes ]; do :; done

# The device is emptied and taken away.
before="$(cat /tmp/files) $(cat /tmp/writes)"
vctl disk evacuate device --to image --rate 50M
after="$(cat /tmp/files) $(cat /tmp/writes)"
vctl disk remove device
losetup -d "$device"
rm /tmp/device.img
test "$(vctl volume list --no-headings -o disks | sort -u)" = image
touch /tmp/stop
wait $writer
wait $guest
echo "files and writes before and after: $before, $after"
test "${before% *}" -lt "${after% *}"
test "${before#* }" -lt "${after#* }"

# The machine goes down and comes up: all is stopped, and started by what the units run.
umount /tmp/mnt
vctl volume detach fs
vctl apparatus stop a1
vctl apparatus stop a2
START_BY_UNITS
until test "$(vctl apparatus list --no-headings -o state | sort | uniq -c | tr -s ' ')" = ' 2 serving'; do :; done
vctl status
vctl pool check

# All is there.
set +x
loop=$(vctl volume attach fs --apparatus a2)
e2fsck -fn "$loop"
mount "$loop" /tmp/mnt
files=$(cat /tmp/files)
for n in $(seq "$files"); do
    test "$(cat /tmp/mnt/$n)" = "words of $n"
done
umount /tmp/mnt
vctl volume detach fs
qemu-io -f raw -c 'read -P 0x5a 0 64M' /tmp/a1/vm
writes=$(cat /tmp/writes)
first=$((writes > 64 ? writes - 63 : 1))
for n in $(seq "$first" "$writes"); do
    qemu-io -f raw -c "read -q -P $((n % 255 + 1)) $((64 + n % 64))M 1M" /tmp/a1/vm
done
vctl apparatus stop a1
vctl apparatus stop a2
