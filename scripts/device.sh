#!/bin/sh
# Says which JAX to install, what JAX_PLATFORMS becomes, and why: "NAME PLATFORMS REASON".
#
#   scripts/device.sh [DEVICE [ROOT]]
#
# NAME is cpu, cuda12, cuda13 or tpu. DEVICE is a NAME or "cuda"; without it JAX_PLATFORMS decides,
# and then what is there: a GPU that nvidia-smi lists, or a TPU on the PCI bus. ROOT is put before
# /sys (for tests).
set -eu

pci="${2:-}/sys/bus/pci/devices"

query() { # one line per GPU; nothing if there is no driver (nvidia-smi then fails)
  found=$(nvidia-smi --query-gpu="$1" --format=csv,noheader 2>/dev/null) || found=
  echo "$found"
}

cuda() { # CUDA 13 needs driver 580 or newer
  driver=$(query driver_version | head -n 1)
  major=${driver%%.*}
  case $major in
    "" | *[!0-9]*) echo "cuda13 cuda,cpu $1, the version of the driver is unknown" ;;
    *)
      if [ "$major" -ge 580 ]; then
        echo "cuda13 cuda,cpu $1, driver $driver"
      else
        echo "cuda12 cuda,cpu $1, driver $driver is below the 580 of CUDA 13"
      fi
      ;;
  esac
}

has_tpu() { # Google's vendor id with the device ids of TPU v3 to v7, as JAX looks for them
  for device in "$pci"/*; do
    [ "$(cat "$device/vendor" 2>/dev/null)" = 0x1ae0 ] || continue
    case $(cat "$device/device" 2>/dev/null) in
      0x0027 | 0x0056 | 0x005e | 0x0062 | 0x0063 | 0x006f | 0x0076) return 0 ;;
    esac
  done
  return 1
}

detect() {
  gpus=$(query name)
  if [ -n "$gpus" ]; then
    cuda "nvidia-smi lists $(echo "$gpus" | wc -l | tr -d ' ') x $(echo "$gpus" | head -n 1)"
  elif has_tpu; then
    echo "tpu tpu,cpu a TPU is on the PCI bus"
  else
    echo "cpu cpu no NVIDIA GPU and no TPU were found"
  fi
}

device=${1:-}
why="DEVICE=$device"
if [ -z "$device" ] && [ -n "${JAX_PLATFORMS:-}" ]; then
  device=${JAX_PLATFORMS%%,*}
  why="JAX_PLATFORMS=$JAX_PLATFORMS"
fi
case $device in
  "") detect ;;
  cpu) echo "cpu cpu $why" ;;
  tpu) echo "tpu tpu,cpu $why" ;;
  cuda12 | cuda13) echo "$device cuda,cpu $why" ;;
  cuda) cuda "$why" ;;
  *)
    echo "error: $why: expected cpu, cuda, cuda12, cuda13 or tpu" >&2
    exit 2
    ;;
esac
