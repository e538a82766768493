"""Answer: what was sent to a client, and how it is kept in Redis.

atelier:answer:DIGEST   hash; expires
    fingerprint         what was asked
    claim               a token of the process that works on the answer; absent once there is one
    answer              sealed
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from service.styles.seal import seal, unseal

_KIND = b"AtA1"


def answer_key(scope: Sequence[str]) -> str:
    return f"atelier:answer:{hashlib.sha256(json.dumps(scope).encode()).hexdigest()}"


# KEYS: answer; ARGV: fingerprint, claim, milliseconds to live
# Returns the fingerprint and the answer that are there, no answer while it is claimed; nothing when the claim
# is ours now.
CLAIM = """
local fields = redis.call('HMGET', KEYS[1], 'fingerprint', 'answer', 'claim')
-- Our own claim: sent again, because Redis went away before it could answer, or before it was let go.
if fields[1] and fields[3] ~= ARGV[2] then
  return {fields[1], fields[2]}
end
redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1], 'claim', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {}
"""

# KEYS: answer; ARGV: claim, milliseconds to live, the sealed answer or "" to only renew the claim
# Does nothing when the claim is no longer ours.
KEEP = """
if redis.call('HGET', KEYS[1], 'claim') ~= ARGV[1] then
  return 0
end
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[1], 'answer', ARGV[3])
  redis.call('HDEL', KEYS[1], 'claim')
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""

# KEYS: answer, and ARGV: claim, which is left alone when it is no longer ours
LET_GO = """
if redis.call('HGET', KEYS[1], 'claim') == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
"""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def to_bytes(self) -> bytes:
        """Sealed: a line of JSON, then the body."""
        return seal(_KIND, json.dumps([self.status, self.headers]).encode() + b"\n" + self.body)

    @classmethod
    def from_bytes(cls, sealed: bytes) -> Answer:
        """ValueError when it is not what `to_bytes` wrote."""
        head, _, body = unseal(_KIND, sealed).partition(b"\n")
        status, headers = json.loads(head)
        return cls(int(status), tuple((name, value) for name, value in headers), body)
