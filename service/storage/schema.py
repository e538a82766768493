"""Every key of the store, and the scripts that change several of them as one.

    atelier:style:ID                          hash, the record
    atelier:picture:ID:N                      string with a checksum, the style image N, from 0
    atelier:feature:ID:FINGERPRINT:SCHEDULE   string with a checksum, a style feature; expires, may be evicted
    atelier:features:ID                       set of the feature keys, so that deleting finds them all
    atelier:index                             sorted set of the IDs of NO_TENANT in the order of creation
    atelier:index:TENANT                      the same of a tenant
    atelier:sequence                          number of the latest creation
    atelier:removed:ID                        number of a removed style's creation; expires
    atelier:answer:DIGEST                     hash, the response to an Idempotency-Key (idempotency_store.py)
    atelier:rate:...                          counts of the rate limits; access/rate_limiter.py

An ID belongs to one tenant (record.py), so keys that hold an ID do not name the tenant. Styles do not expire
and everything else does, so the volatile-* eviction policies never remove a style. Each script writes either
everything or nothing, to memory and to the append-only log.
"""

from __future__ import annotations

SEQUENCE = "atelier:sequence"
MAX_PICTURES = 10  # of one style
FEATURE_SECONDS = 30 * 24 * 3600  # a stored feature expires this long after it was last read (to within half)
REMOVED_SECONDS = 3600  # how long a list can go on after a style that has been removed
NO_TENANT = ""  # owns the styles of a service without API keys


def index_key(tenant: str) -> str:
    return f"atelier:index:{tenant}" if tenant else "atelier:index"


def record_key(style_id: str) -> str:
    return f"atelier:style:{style_id}"


def picture_key(style_id: str, index: int = 0) -> str:
    return f"atelier:picture:{style_id}:{index}"


def feature_key(style_id: str, fingerprint: str, schedule: str) -> str:
    return f"atelier:feature:{style_id}:{fingerprint}:{schedule}"


def features_key(style_id: str) -> str:
    return f"atelier:features:{style_id}"


def removed_key(style_id: str) -> str:
    return f"atelier:removed:{style_id}"


# KEYS: record, feature, features, index, sequence, then the pictures
# ARGV: ID, feature, the feature's seconds to live, "replace" or "", the pictures, then the record's fields
# Returns the fields of the record that already exists; nothing when this one was written.
# A full store refuses the first write of a script and none after it, so the first must not be a deletion.
CREATE = """
if ARGV[4] ~= 'replace' and redis.call('EXISTS', KEYS[1]) == 1 then
  return redis.call('HGETALL', KEYS[1])
end
local num_pictures = #KEYS - 5
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
for i = 1, num_pictures do
  redis.call('SET', KEYS[5 + i], ARGV[4 + i])
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], unpack(ARGV, 5 + num_pictures))
redis.call('SADD', KEYS[3], KEYS[2])
if not redis.call('ZSCORE', KEYS[4], ARGV[1]) then
  redis.call('ZADD', KEYS[4], redis.call('INCR', KEYS[5]), ARGV[1])
end
return {}
"""
# KEYS: record, index, sequence, then the pictures
# ARGV: ID, "replace" or "", the pictures, then the record's fields
# Returns 0, with nothing written, when there is a record already.
RESTORE = """
if ARGV[2] ~= 'replace' and redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
local num_pictures = #KEYS - 3
for i = 1, num_pictures do
  redis.call('SET', KEYS[3 + i], ARGV[2 + i])
end
redis.call('HSET', KEYS[1], unpack(ARGV, 3 + num_pictures))
if not redis.call('ZSCORE', KEYS[2], ARGV[1]) then
  redis.call('ZADD', KEYS[2], redis.call('INCR', KEYS[3]), ARGV[1])
end
return 1
"""
# KEYS: record; ARGV: number of arguments that are fields and values to set; these; then fields to remove
# Returns the fields of the record; nil, with nothing written, when there is none.
CHANGE = """
if redis.call('EXISTS', KEYS[1]) == 0 then
  return false
end
local num_set = tonumber(ARGV[1])
if num_set > 0 then
  redis.call('HSET', KEYS[1], unpack(ARGV, 2, 1 + num_set))
end
if #ARGV > 1 + num_set then
  redis.call('HDEL', KEYS[1], unpack(ARGV, 2 + num_set))
end
return redis.call('HGETALL', KEYS[1])
"""
# KEYS: record, feature, features; ARGV: the feature, its seconds to live
# Returns 0, with nothing written, when the style has been deleted.
WRITE_FEATURE = """
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[2])
redis.call('SADD', KEYS[3], KEYS[2])
return 1
"""
# KEYS: index, removed, features, record, then every key that a picture may have
# ARGV: ID, seconds for which the place in the index is remembered
# Returns the number of keys and entries removed: 0 when there was no such style.
DELETE = """
local number = redis.call('ZSCORE', KEYS[1], ARGV[1])
for _, key in ipairs(redis.call('SMEMBERS', KEYS[3])) do
  redis.call('DEL', key)
end
local num_removed = redis.call('DEL', unpack(KEYS, 3)) + redis.call('ZREM', KEYS[1], ARGV[1])
if number then
  redis.call('SET', KEYS[2], number, 'EX', ARGV[2])
end
return num_removed
"""
# KEYS: index, removed (of the ID to continue after)
# ARGV: the ID to continue after or "", the maximal number, "asc" or "desc"
# Returns IDs; nil when the ID to continue after is not in the index, nor was it lately.
LIST = """
local rev = ARGV[3] == 'desc' and 'REV' or ''
local first = 0
if ARGV[1] ~= '' then
  local rank = redis.call('Z' .. rev .. 'RANK', KEYS[1], ARGV[1])
  local removed = not rank and redis.call('GET', KEYS[2])
  if rank then
    first = rank + 1
  elseif removed and rev == '' then
    first = redis.call('ZCOUNT', KEYS[1], '-inf', removed)
  elseif removed then
    first = redis.call('ZCOUNT', KEYS[1], removed, '+inf')
  else
    return false
  end
end
return redis.call('Z' .. rev .. 'RANGE', KEYS[1], first, first + ARGV[2] - 1)
"""
