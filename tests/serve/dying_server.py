"""A server to be killed, small enough to die at once: `python dying_server.py PORT` answers after the milliseconds that
a path ends in."""

import asyncio
import re
import sys

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nsuccess"


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while head := (await reader.readuntil(b"\r\n\r\n")).decode().lower():
        length = re.search(r"content-length: *(\d+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
        after = re.match(r"\S+ \S*/(\d+) ", head)
        await asyncio.sleep(int(after[1]) / 1000 if after else 0)
        writer.write(ANSWER)
        await writer.drain()


async def main(port: int) -> None:
    await (await asyncio.start_server(serve, "127.0.0.1", port)).serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
