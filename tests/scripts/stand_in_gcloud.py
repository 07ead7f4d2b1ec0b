"""Stands in for gcloud: slices are processes here, and the bucket is a folder.

STAND_IN_CLOUD is a folder with `bucket/` (gs://BUCKET/X is bucket/BUCKET/X), `slices/NAME.json` and
`vms/NUMBER-WORKER/` for each VM that ever was. STAND_IN_HOSTS is the number of hosts of a slice.
Flags that are not in `FLAGS`, which the real one has, are refused.
"""

import http.server
import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys

CLOUD = Path(os.environ["STAND_IN_CLOUD"])
HOSTS = int(os.environ.get("STAND_IN_HOSTS", "1"))
FLAGS = {
    "create": "node-id accelerator-type runtime-version service-account valid-until-duration spot "
    "scopes metadata metadata-from-file",
    "describe": "format",
    "delete": "force",
    "ssh": "worker command",
}
MARK = "STAND_IN_VM"  # variable of every process of a VM


def main(arguments: list[str]) -> int:
    with (CLOUD / "calls").open("a") as calls:
        calls.write(json.dumps(arguments) + "\n")
    if arguments[0] == "storage":
        return storage(arguments[1], [a for a in arguments[2:] if a != "--quiet"])
    _, _, kind, verb, name, *options = arguments
    given = dict(o.removeprefix("--").partition("=")[::2] for o in options)
    unknown = set(given) - set(FLAGS[verb].split()) - {"project", "zone", "quiet"}
    if unknown or not {"project", "zone"} <= set(given):
        return say(f"ERROR: unrecognized arguments: {unknown}, or no --project and --zone", 2)
    return TPU[verb](CLOUD / "slices" / f"{name}.json", kind, given)


def say(text: str, status: int = 1) -> int:
    print(text, file=sys.stderr)
    return status


# ---- The bucket.


def local(path: str) -> Path:
    return CLOUD / "bucket" / path.removeprefix("gs://") if path.startswith("gs://") else Path(path)


def storage(verb: str, paths: list[str]) -> int:
    *sources, last = paths
    if verb == "cp":
        for source in sources:
            to = local(last) / Path(source).name if last.endswith(("/", ".")) else local(last)
            to.parent.mkdir(parents=True, exist_ok=True)
            if source == "-":
                to.write_bytes(sys.stdin.buffer.read())
            else:
                shutil.copy(local(source), to)
        return 0
    if not local(last).exists():
        return say(f"ERROR: (gcloud.storage.{verb}) The following URLs matched no objects: {last}")
    if verb == "cat":
        sys.stdout.write(local(last).read_text())
    else:
        local(last).unlink()
    return 0


# ---- Slices. A node is gone before its queued resource is, unless --force deletes both.


def create(file: Path, kind: str, given: dict[str, str]) -> int:
    if file.exists():
        return say("ERROR: ALREADY_EXISTS: a queued resource of that name exists")
    file.parent.mkdir(exist_ok=True)
    number = len(list((CLOUD / "vms").glob("*-0"))) + 1
    script = given["metadata-from-file"].removeprefix("startup-script=")
    for worker in range(HOSTS):
        vm = CLOUD / "vms" / f"{number}-{worker}"
        vm.mkdir(parents=True)
        shutil.copy(script, vm / "startup-script")
        key, _, value = given["metadata"].partition("=")
        metadata = {key: value, "agent-worker-number": str(worker)}
        metadata["worker-network-endpoints"] = ",".join(
            f"worker-{i}:{i}:127.0.0.1" for i in range(HOSTS)
        )
        (vm / "metadata.json").write_text(json.dumps(metadata))
        boot(vm)
    state = {"queued-resources": "ACTIVE", "tpu-vm": "READY", "number": number}
    file.write_text(json.dumps(state))
    return 0


def boot(vm: Path) -> None:
    """Starts a VM: its metadata server, and the start-up script."""
    command = [sys.executable, __file__, "vm", str(vm)]
    with (vm / "vm.log").open("a") as log:
        marked = os.environ | {MARK: str(vm)}
        subprocess.Popen(command, env=marked, stdout=log, stderr=log, start_new_session=True)


def run_vm(vm: Path) -> None:
    class Metadata(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            key = self.path.removeprefix("/computeMetadata/v1/instance/attributes/")
            value = json.loads((vm / "metadata.json").read_text()).get(key)
            asked_well = self.headers["Metadata-Flavor"] == "Google" and value is not None
            self.send_response(200 if asked_well else 404)
            self.end_headers()
            self.wfile.write((value or "").encode())

        def log_message(self, *arguments: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    host = f"127.0.0.1:{server.server_port}"
    environment = {k: v for k, v in os.environ.items() if k != "HOME"}  # boot has no HOME
    environment |= {"GCE_METADATA_HOST": host, "GOPD_HOME": str(vm / "opt")}
    script = subprocess.Popen(["bash", str(vm / "startup-script")], env=environment)
    server.timeout = 0.1
    while script.poll() is None:
        server.handle_request()
    (vm / "booted").write_text(str(script.returncode))
    server.serve_forever()


def processes_of(vms: list[Path]) -> list[int]:
    """The processes of VMs, by a variable in their environment."""
    marks = {f"{MARK}={vm}".encode() for vm in vms}
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended, or belongs to another user
            continue
        if marks & set(environment):
            found.append(int(entry.name))
    return found


def halt(file: Path) -> None:
    """Ends every process of a slice at once."""
    vms = list((CLOUD / "vms").glob(f"{json.loads(file.read_text())['number']}-*"))
    while found := processes_of(vms):
        for process in found:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                pass


def describe(file: Path, kind: str, given: dict[str, str]) -> int:
    state = json.loads(file.read_text()) if file.exists() else {}
    if kind not in state:
        return say("ERROR: (gcloud.compute.tpus) NOT_FOUND: Resource was not found")
    print(state[kind])
    return 0


def delete(file: Path, kind: str, given: dict[str, str]) -> int:
    state = json.loads(file.read_text()) if file.exists() else {}
    if kind not in state:
        return say("ERROR: (gcloud.compute.tpus) NOT_FOUND: Resource was not found")
    halt(file)
    if kind == "tpu-vm":
        del state["tpu-vm"]
        file.write_text(json.dumps(state | {"queued-resources": "SUSPENDED"}))
    elif "tpu-vm" in state and "force" not in given:
        return say("ERROR: FAILED_PRECONDITION: the queued resource has a node")
    else:
        file.unlink()
    return 0


def ssh(file: Path, kind: str, given: dict[str, str]) -> int:
    number = json.loads(file.read_text())["number"]
    for vm in sorted((CLOUD / "vms").glob(f"{number}-*")):
        if given["worker"] in ("all", vm.name.partition("-")[2]):
            command = given["command"].replace("/opt/gopd", str(vm / "opt")).replace("sudo ", "")
            subprocess.run(["bash", "-c", command], check=True)
    return 0


def preempt(name: str) -> None:
    """What happens to a spot slice: all hosts end at once, and the request is suspended."""
    file = CLOUD / "slices" / f"{name}.json"
    halt(file)
    state = json.loads(file.read_text())
    file.write_text(json.dumps(state | {"queued-resources": "SUSPENDED", "tpu-vm": "PREEMPTED"}))


def reboot(name: str) -> None:
    """All hosts of a slice start again, with their disks."""
    file = CLOUD / "slices" / f"{name}.json"
    halt(file)
    for vm in (CLOUD / "vms").glob(f"{json.loads(file.read_text())['number']}-*"):
        (vm / "booted").unlink(missing_ok=True)
        boot(vm)


TPU = {"create": create, "describe": describe, "delete": delete, "ssh": ssh}

if __name__ == "__main__":
    if sys.argv[1] == "vm":
        run_vm(Path(sys.argv[2]))
    elif sys.argv[1] in ("preempt", "reboot"):
        {"preempt": preempt, "reboot": reboot}[sys.argv[1]](sys.argv[2])
    else:
        sys.exit(main(sys.argv[1:]))
