"""Engines in an object store, for pods that share no volume; what `cache` keeps in a folder.

    KEY/SHA256         an engine, named by its own digest
    KEY/engine.json    its record. Written last: the entry is there when it is
    KEY.lock           made by the pod that builds, and written anew every BEAT seconds while it does

An object is written whole or not at all, and a store can be told to make one only where none is, on which
the lock rests (`If-None-Match` in S3, `ifGenerationMatch=0` in Google Cloud Storage). A lock that nobody has
written for STALE seconds is a dead pod's. Where a store can't do that, or two pods take a dead pod's lock at
once, each builds, and the last one's engine stays. Old engines are the store's own to remove, by a rule for
the bucket.
"""

from __future__ import annotations

import hashlib
import json
import logging
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from model_tools.engine.cache import RECORD, Damaged, parsed
from model_tools.engine.key import Key
from model_tools.stores import reason, store

BEAT, STALE, POLL = 10.0, 60.0, 2.0  # seconds


class Bucket:
    """One key's place in an object store: as `cache.Folder`, with the same lines for people."""

    def __init__(self, url: str, key: Key, say: Callable[[str], None]) -> None:
        logging.disable(logging.CRITICAL)  # stores log what is raised too, with its stack
        self._system, root = store(url)
        self._url, self._key, self._say = url.rstrip("/"), key, say
        self._entry, self._lock = f"{root}/{key.name}", f"{root}/{key.name}.lock"
        self.record: dict[str, Any] = {}  # of the engine that was taken
        self.place = f"{self._url}/{key.name}"

    def take(self, output: Path) -> str | None:
        """Copies the entry's engine to `output`; None when that is done, else what is wrong with the entry.

        "" says that there is none.
        """
        aside = output.with_name(f".{output.name}.taking")
        try:
            record = parsed(self._system.cat_file(f"{self._entry}/{RECORD}"))
        except FileNotFoundError:
            return ""
        except Damaged as error:
            return str(error)
        except Exception as error:  # every store raises its own
            return f"can't be read ({reason(error)})"
        if difference := self._key.difference(record["key"]):
            return f"is of another key ({difference} differs)"
        try:
            self._system.get_file(f"{self._entry}/{record['sha256']}", str(aside))
            with aside.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != record["sha256"]:
                    return "is altered (its SHA-256 is not the recorded one)"
            aside.rename(output)
            self.record = record
            return None
        except FileNotFoundError:
            return "has no engine"
        except Exception as error:
            return f"can't be read ({reason(error)})"
        finally:
            aside.unlink(missing_ok=True)

    @contextmanager
    def locked(self, wait: float) -> Iterator[bool]:
        """Holds the key's lock in the block, which gets whether the cache may be written."""
        said = f"{socket.gethostname()} {uuid.uuid4().hex}"
        state = self._acquire(said, wait)
        if state != "held":
            yield state == "unlocked"
            return
        over = threading.Event()
        beating = threading.Thread(target=self._beat, args=(said, over), daemon=True)
        beating.start()
        try:
            yield True
        finally:
            over.set()
            beating.join()
            with suppress(Exception):  # a dead pod's lock, to the next one
                self._system.rm_file(self._lock)

    def _acquire(self, said: str, wait: float) -> str:
        """held; unlocked where the store has no locks; no where another pod has it or nobody may write."""
        began = changed = monotonic()
        seen = b""
        while True:
            try:
                self._system.pipe_file(self._lock, said.encode(), mode="create")
                return "held"
            except FileExistsError:
                pass
            except NotImplementedError:
                self._say(f"warning: {self._url}: has no locks, so pods that start together may each build")
                return "unlocked"
            except Exception as error:
                if not _exists(error):
                    self._say(f"warning: {self._url}: can't be written ({reason(error)}), so each pod builds")
                    return "no"
            with suppress(Exception):  # gone in this moment: the next round makes it
                content = self._system.cat_file(self._lock)
                if not seen:
                    holder = content.decode(errors="replace").split(" ")[0] or "another pod"
                    self._say(f"{holder} builds this engine; waiting for it")
                if content != seen:
                    seen, changed = content, monotonic()
            if monotonic() - changed > STALE:
                self._say(f"the lock's owner has been silent for {STALE:g} s; its lock is removed")
                with suppress(Exception):
                    self._system.rm_file(self._lock)
                changed = monotonic()
                continue
            if monotonic() - began > wait:
                self._say(f"warning: no engine after {wait:g} s of waiting, so this pod builds alone")
                return "no"
            sleep(POLL)

    def _beat(self, said: str, over: threading.Event) -> None:
        beats = 0
        while not over.wait(BEAT):
            beats += 1
            with suppress(Exception):  # the next one may come through; STALE allows for several
                self._system.pipe_file(self._lock, f"{said} {beats}".encode())

    def discard(self) -> None:
        """`put` writes over what can't be used."""

    def put(self, engine: Path, record: Mapping[str, Any]) -> bool:
        """Adds the engine to the store, or says why it can't be, in one line."""
        try:
            self._system.put_file(str(engine), f"{self._entry}/{record['sha256']}")
            content = json.dumps(record, indent=2) + "\n"
            self._system.pipe_file(f"{self._entry}/{RECORD}", content.encode())
            return True
        except Exception as error:  # every store raises its own
            self._say(f"warning: {self._url}: can't keep the engine ({reason(error)}), so each pod builds")
            return False


def _exists(error: Exception) -> bool:
    """Whether a store says in its own way that the object is there: HTTP 409 or 412, which gcsfs keeps in
    `code`, or S3's names of them. A bare number in the text would be found in keys as well."""
    named = any(name in str(error) for name in ("PreconditionFailed", "ConditionalRequestConflict"))
    return named or str(getattr(error, "code", "")) in ("409", "412")
