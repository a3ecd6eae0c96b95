"""One HTTP/1.1 connection under `wire`: what llhttp makes of the bytes that come, and the limits on them."""

import asyncio
from collections.abc import Callable
from typing import cast

import httptools
import httpx

LARGEST_HEAD, MOST_HEADERS = 32_768, 100
"""Bytes that may come without a byte of body among them, and headers of one answer."""


class TooLong(httpx.RemoteProtocolError):
    """More came than the answer may have."""


class Silence(httpx.ReadError):
    """The connection was closed before a single byte of the answer came."""


class Answer:
    """One answer while it comes in, within its limits; llhttp calls the `on_` methods."""

    __slots__ = ("_blank", "_largest", "_parser", "_size", "begun", "body", "headed", "headers", "keep", "status", "trouble", "whole")

    def __init__(self, largest: int) -> None:
        self.status, self.headers, self.body = 0, list[tuple[bytes, bytes]](), list[bytes]()
        self.begun = self.headed = self.whole = self.keep = False
        self.trouble: httpx.RemoteProtocolError | None = None
        self._size, self._blank, self._largest = 0, 0, largest
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> bool:
        """Take what came; True: there is nothing more to wait for, since the answer is `whole` or there is `trouble`."""
        assert self._parser is not None
        self.begun = True
        self._blank += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.keep = False  # after a whole answer, what follows it is not believed, but the answer is
            self.trouble = self.trouble or (None if self.whole else httpx.RemoteProtocolError(f"not an HTTP answer: {error}"))
        if self._blank > LARGEST_HEAD and not self.whole:
            self.trouble = self.trouble or httpx.RemoteProtocolError(f"more than {LARGEST_HEAD} bytes of headers")
        if self.whole or self.trouble:
            self._parser = None  # it points back here
            return True
        return False

    @property
    def ends_with_connection(self) -> bool:
        """Whether the end of the connection is the end of the answer, because it has not said where else."""
        return self.headed and not any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in self.headers)

    def on_message_begin(self) -> None:
        self.keep = False  # decided with the headers; a second answer that nobody asked for gets that far at most

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.headed:
            return  # a trailer
        self.headers.append((name, value))
        if len(self.headers) > MOST_HEADERS:
            self.trouble = httpx.RemoteProtocolError(f"more than {MOST_HEADERS} headers")

    def on_headers_complete(self) -> None:
        if self.whole or self._parser is None:
            return
        self.status, self.headed = self._parser.get_status_code(), True
        self.keep = self._parser.should_keep_alive()

    def on_body(self, part: bytes) -> None:
        if self.whole:
            return
        self._blank = 0
        self._size += len(part)
        self.body.append(part)
        if self._size > self._largest:
            self.trouble = TooLong(f"more than {self._largest} bytes")

    def on_message_complete(self) -> None:
        if self.status >= 200:
            self.whole = True
        elif not self.whole:  # 1xx: the answer is still to come
            self.headed = False
            self.headers.clear()


class Connection(asyncio.Protocol):
    """One connection, which carries one question at a time."""

    def __init__(self, lost: Callable[["Connection"], None]) -> None:
        self._loop, self._lost = asyncio.get_running_loop(), lost
        self._answer: Answer | None = None
        self._done: asyncio.Future[None] | None = None
        self.open = False
        self.rests_until = 0.0
        """When it has rested too long, in the loop's time; 0: it never rested yet, since it carries its first question."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self.open = cast(asyncio.Transport, transport), True

    async def ask(self, question: bytes, largest: int) -> Answer:
        """Send and read the answer. Whatever keeps it from being whole, a cancelled caller too, closes the connection."""
        if not self.open:
            raise Silence("the connection was closed before anything was asked")
        self._answer = answer = Answer(largest)
        self._done = self._loop.create_future()
        self._transport.write(question)
        try:
            await self._done
        except BaseException:
            self.drop()
            raise
        finally:
            self._answer = self._done = None
        if not answer.keep:
            self.drop()
        return answer

    def drop(self) -> None:
        self.open = False
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._done is None or self._done.done():
            self.drop()  # nobody asked for that
        elif self._answer.feed(data):
            if self._answer.trouble:
                self._done.set_exception(self._answer.trouble)
            else:
                self._done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        self._lost(self)
        if self._answer is None or self._done is None or self._done.done():
            return
        if error is None and self._answer.ends_with_connection:
            self._done.set_result(None)
        elif self._answer.begun:
            self._done.set_exception(httpx.RemoteProtocolError(f"the connection broke in the middle of an answer ({error})"))
        else:
            self._done.set_exception(Silence(f"the connection was closed without an answer ({error})"))
