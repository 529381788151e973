export VCTL_POOL=/tmp/pool
trap 'touch /tmp/stop' EXIT

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

# What a VM does with its disk: with qemu's own tools where they are, else by hand. Megabytes of one byte.
if command -v qemu-io && command -v qemu-img; then
    install() {
        qemu-img create -q -f qcow2 /tmp/guest.qcow2 256M
        qemu-io -c 'write -q -P 90 0 64M' /tmp/guest.qcow2
        qemu-img convert -n -f qcow2 -O raw /tmp/guest.qcow2 "$1"
    }
    put() { qemu-io -f raw -t none -c "write -q -P $3 $2M 1M" -c flush "$1"; }
    check() { qemu-io -f raw -t none -c "read -q -P $3 $2M 1M" "$1"; }
else
    megabyte() { head -c 1M /dev/zero | tr '\000' "\\$(printf %03o "$1")"; }
    install() { for at in $(seq 0 63); do put "$1" "$at" 90; done; }
    put() { megabyte "$3" | dd of="$1" bs=1M seek="$2" iflag=fullblock oflag=direct conv=notrunc,fsync status=none; }
    check() {
        megabyte "$3" > /tmp/expected
        dd if="$1" bs=1M skip="$2" count=1 iflag=direct status=none | cmp - /tmp/expected
    }
fi

# ext4 on one volume, a VM's image on the other.
loop=$(vctl volume attach fs)
mkfs.ext4 -q "$loop"
mkdir /tmp/mnt
mount "$loop" /tmp/mnt
install /tmp/a2/vm

# Both in use: each write is noted once it is acknowledged and durable, and earlier ones are read again, from the volume.
words_of() { dd if=/tmp/mnt/$1 bs=4096 iflag=direct status=none; }
byte_of() { echo $(($1 % 255 + 1)); }
place_of() { echo $((64 + $1 % 64)); }
(
    set +x
    n=0
    while [ ! -e /tmp/stop ]; do
        n=$((n + 1))
        echo "words of $n" > /tmp/mnt/$n
        sync /tmp/mnt/$n
        echo $n > /tmp/files.new && mv /tmp/files.new /tmp/files
        earlier=$(((n + 1) / 2))
        test "$(words_of $earlier)" = "words of $earlier"
    done
) &
writer=$!
(
    set +x
    n=0
    while [ ! -e /tmp/stop ]; do
        n=$((n + 1))
        put /tmp/a2/vm $(place_of $n) $(byte_of $n)
        echo $n > /tmp/writes.new && mv /tmp/writes.new /tmp/writes
        earlier=$((n > 9 ? n - 9 : n))
        check /tmp/a2/vm $(place_of $earlier) $(byte_of $earlier)
        check /tmp/a2/vm $((n % 64)) 90
    done
) &
guest=$!
until [ -e /tmp/files ] && [ -e /tmp/writes ]; do :; done

# The operator empties the device and takes it out, at the console.
before="$(cat /tmp/files) $(cat /tmp/writes)"
echo 'in use' > /tmp/to-the-operator
read -r done < /tmp/from-the-operator
after="$(cat /tmp/files) $(cat /tmp/writes)"
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
loop=$(vctl volume attach fs)
e2fsck -fn "$loop"
mount "$loop" /tmp/mnt
files=$(cat /tmp/files)
for n in $(seq "$files"); do
    test "$(words_of $n)" = "words of $n"
done
umount /tmp/mnt
vctl volume detach fs
for at in $(seq 0 63); do
    check /tmp/a1/vm "$at" 90
done
writes=$(cat /tmp/writes)
first=$((writes > 64 ? writes - 63 : 1))
for n in $(seq "$first" "$writes"); do
    check /tmp/a1/vm $(place_of "$n") $(byte_of "$n")
done
vctl apparatus stop a1
vctl apparatus stop a2
