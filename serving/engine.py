# Copyright 2026 The Flow-Omni authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The thread that owns the model: it runs what clients ask for, and one step of all their answers at a time."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .step_loop import Row, StepLoop


logger = logging.getLogger("flow_omni.serving")

# Seconds after which the thread looks again, where nothing woke it: a client that did not read may read again.
MAX_WAIT = 0.02


class Subject(Protocol):
    """What a client talks to in the engine's thread: a session, or a protocol around one."""

    def rows(self) -> list[Row]: ...

    def take(self, row: Row, step: Any | None) -> list[Any]: ...

    def close(self) -> None: ...


@dataclass
class Client:
    """
    A client of the engine. Tasks run in their order, in the engine's thread; what they return, and the output of steps,
    goes to `deliver`, which is called in that thread too.
    """

    engine: "Engine"
    make: Callable[[], Subject]
    deliver: Callable[[Sequence[Any]], None]
    is_blocked: Callable[[], bool] = lambda: False  # whether its output waits to be read: then it generates no more
    subject: Subject | None = None
    is_closed: bool = False
    tasks: deque = field(default_factory=deque)

    def post(self, task: Callable[[Any], Sequence[Any]]) -> None:
        self.tasks.append(task)
        self.engine.wake()

    def close(self) -> None:
        """Ends the client: what is left of its answer is dropped."""
        self.is_closed = True
        self.engine.wake()

    @property
    def is_busy(self) -> bool:
        return bool(self.tasks) or (self.subject is not None and bool(self.subject.rows()))


class Engine:
    """
    Args:
        step_loop (`StepLoop`): The model's loop.
        observe (`Callable[[int, float], None]`, *optional*): Called with the rows of each step and its seconds.
    """

    def __init__(self, step_loop: StepLoop, observe: Callable[[int, float], None] = lambda num_rows, seconds: None):
        self.step_loop = step_loop
        self.observe = observe
        self.clients: list[Client] = []
        self.is_running = False
        self._condition = threading.Condition()
        self._is_awake = False
        self._thread = threading.Thread(target=self._run, name="flow-omni-engine", daemon=True)

    def start(self) -> None:
        self.is_running = True
        self._thread.start()

    def stop(self) -> None:
        self.is_running = False
        self.wake()
        self._thread.join()

    def wake(self) -> None:
        with self._condition:
            self._is_awake = True
            self._condition.notify()

    def open(
        self,
        make: Callable[[], Subject],
        deliver: Callable[[Sequence[Any]], None],
        is_blocked: Callable[[], bool] = lambda: False,
    ) -> Client:
        """A client, whose subject is made in the engine's thread."""
        client = Client(self, make, deliver, is_blocked)
        with self._condition:
            self.clients.append(client)
        return client

    def _run(self) -> None:
        while self.is_running:
            with self._condition:
                if not self._is_awake:
                    self._condition.wait(MAX_WAIT if self.clients else None)
                self._is_awake = False
                clients = list(self.clients)
            for client in clients:
                self._run_tasks(client)
            if self._step(clients):
                self._is_awake = True
        for client in self.clients:
            self._drop(client)

    def _run_tasks(self, client: Client) -> None:
        if client.is_closed:
            self._drop(client)
            return
        # only those that are there now, so that a client that never stops does not hold up the others
        for _ in range(len(client.tasks)):
            task = client.tasks.popleft()
            self._deliver(client, lambda task=task: task(self._subject(client)))

    def _subject(self, client: Client) -> Subject:
        if client.subject is None:
            client.subject = client.make()
        return client.subject

    def _step(self, clients: list[Client]) -> bool:
        """One step of all rows of clients whose output is read; whether there were any."""
        owners = {
            row: client
            for client in clients
            if client.subject is not None and not client.is_closed and not client.is_blocked()
            for row in client.subject.rows()
        }
        if not owners:
            return False
        start = time.perf_counter()
        steps = dict(self.step_loop.step(list(owners)))
        self.observe(len(owners), time.perf_counter() - start)
        for row, client in owners.items():
            self._deliver(client, lambda row=row, client=client: client.subject.take(row, steps.get(row)))
        return True

    def _deliver(self, client: Client, work: Callable[[], Sequence[Any]]) -> None:
        """Delivers what work gives, or the exception that it raises."""
        try:
            output = work()
        except Exception as error:
            output = [error]
        if output and not client.is_closed:
            client.deliver(output)

    def _drop(self, client: Client) -> None:
        with self._condition:
            if client in self.clients:
                self.clients.remove(client)
        if client.subject is not None:
            client.subject.close()
            client.subject = None
        client.tasks.clear()

    def is_idle(self) -> bool:
        """Whether no client waits for anything."""
        return not any(client.is_busy for client in list(self.clients))
