"""Put onnxruntime-web beside the page: the two files that it needs, out of npm's package, checked.

    python -m inference.server.web.fetch

They are not in the repository because the WebAssembly is 14 MB. npm fetches them, from the registry that it is
set up for; what comes must have these very checksums.
"""

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "onnxruntime-web@1.30.0"
FILES = {  # name -> sha256
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
VENDOR = Path(__file__).parent / "vendor"


def is_there(vendor: Path = VENDOR) -> bool:
    """Whether both files lie beside the page."""
    return all((vendor / name).is_file() for name in FILES)


def fetch(vendor: Path = VENDOR) -> None:
    """Fetch what is missing or is another version; SystemExit with one line where that fails."""
    if all((vendor / name).is_file() and _sha256(vendor / name) == digest for name, digest in FILES.items()):
        print(f"{vendor} has {PACKAGE} already")
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        except FileNotFoundError:
            sys.exit(
                f"error: npm is not installed: install Node.js, or put {', '.join(FILES)} into {vendor} yourself"
            )
        except subprocess.CalledProcessError as error:
            sys.exit(f"error: npm could not fetch {PACKAGE} (exit code {error.returncode}): check the network")
        (archive,) = Path(folder).glob("*.tgz")
        vendor.mkdir(exist_ok=True)
        with tarfile.open(archive) as tar:
            for name, digest in FILES.items():
                member = tar.extractfile(f"package/dist/{name}")
                part = vendor / f".{name}.part"
                part.write_bytes(member.read() if member else b"")
                if _sha256(part) != digest:
                    part.unlink()
                    sys.exit(f"error: {name} of {PACKAGE} is not the file that was checked: nothing was put in place")
                os.replace(part, vendor / name)
    print(f"{PACKAGE} lies in {vendor}")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    fetch()
