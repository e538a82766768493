"""Every key of the store, and the scripts that change several of them as one.

    atelier:style:ID                          hash, the record
    atelier:picture:ID:N                      string with a checksum, the style image N, from 0
    atelier:feature:ID:FINGERPRINT:SCHEDULE   string with a checksum, a style feature; expires, may be evicted
    atelier:features:ID                       set of the feature keys, so that deleting finds them all
    atelier:index                             sorted set of the IDs of NO_TENANT in the order of creation
    atelier:index:TENANT                      the same of a tenant
    atelier:bytes                             bytes of the records and pictures of NO_TENANT
    atelier:bytes:TENANT                      the same of a tenant
    atelier:sequence                          number of the latest creation
    atelier:removed:ID                        number of a removed style's creation; expires
    atelier:answer:DIGEST                     hash, the response to an Idempotency-Key, which expires, or the
                                              claim of its running request, which does not
    atelier:claims                            sorted set of the keys with claims, by when these end
    atelier:answers:TENANT                    sorted set of the responses, by when they were kept; expires
    atelier:answer_bytes                      hash, the bytes of the responses by tenant
    atelier:job:ID                            hash, the record of a job; expires once the job has ended
    atelier:job_request:ID                    string with a checksum, the request of a job that has not ended
    atelier:job_preview:ID                    string, the latest preview of a job that runs; expires
    atelier:job_result:ID                     string with a checksum, the response; expires
    atelier:job_results:TENANT                sorted set of the results, by when they were kept
    atelier:job_result_bytes                  hash, their bytes by tenant
    atelier:jobs:MODEL                        stream of the jobs that were given to a worker and run
    atelier:jobs:MODEL:of:KEY                 list of the jobs of an API key that wait
    atelier:jobs:MODEL:turns                  sorted set of API keys, by their next turn
    atelier:job_turn                          hash, the turn that was reached, by stream
    atelier:jobs_of:TENANT                    sorted set of its jobs in the order of their creation
    atelier:jobs_open                         hash, the number of those, by API key
    atelier:jobs_open_bytes                   hash, the bytes of their requests, by API key
    atelier:job_seconds                       hash, how long one job takes, by stream
    atelier:webhook:JOB, atelier:webhooks_... what is told of jobs that have ended; webhooks/deliveries.py
    atelier:job_news                          channel, the ID and status of a job that changed; jobs/news.py
    atelier:probe                             never there: written to with nothing, see storage/client.py
    atelier:rate:...                          counts of the rate limits; access/rate_limiter.py
    atelier:replica:ID                        JSON, where a replica on Ray can be scraped; expires

An ID belongs to one tenant (record.py), so keys that hold an ID do not name the tenant. Neither styles nor
running claims expire, so the volatile-* eviction policies never remove one; features, responses, rates and
removed places do, and can be lost. Each script writes either everything or nothing, to memory and to the
append-only log.
"""

from __future__ import annotations

from dataclasses import dataclass

SEQUENCE = "atelier:sequence"
CLAIMS, ANSWER_BYTES = "atelier:claims", "atelier:answer_bytes"
REPLICA_PREFIX = "atelier:replica:"
WEBHOOKS_DUE, WEBHOOKS_DEAD = "atelier:webhooks_due", "atelier:webhooks_dead"
JOBS_OPEN, JOB_SECONDS, JOB_NEWS = "atelier:jobs_open", "atelier:job_seconds", "atelier:job_news"
MAX_PICTURES = 10  # of one style
FEATURE_SECONDS = 30 * 24 * 3600  # a stored feature expires this long after it was last read (to within half)
REMOVED_SECONDS = 3600  # how long a list can go on after a style that has been removed
NO_TENANT = ""  # owns the styles of a service without API keys


@dataclass(frozen=True, slots=True)
class Quota:
    """How much the styles of one tenant may take; None is without limit."""

    styles: int | None = None
    bytes: int | None = None


def index_key(tenant: str) -> str:
    return f"atelier:index:{tenant}" if tenant else "atelier:index"


def bytes_key(tenant: str) -> str:
    return f"atelier:bytes:{tenant}" if tenant else "atelier:bytes"


def job_key(job_id: str) -> str:
    return f"atelier:job:{job_id}"


def job_request_key(job_id: str) -> str:
    return f"atelier:job_request:{job_id}"


def job_preview_key(job_id: str) -> str:
    return f"atelier:job_preview:{job_id}"


def job_result_key(job_id: str) -> str:
    return f"atelier:job_result:{job_id}"


def webhook_key(job_id: str) -> str:
    return f"atelier:webhook:{job_id}"


def jobs_key(model: str) -> str:
    return f"atelier:jobs:{model}"


def jobs_index_key(tenant: str) -> str:
    return f"atelier:jobs_of:{tenant}"


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


# What a style takes: the bytes of its record and its pictures. Features are a cache and are not counted.
_SIZES = """
local function size_of(id)
  local record, size = redis.pcall('HGETALL', 'atelier:style:' .. id), 0
  for _, part in ipairs(record.err and {} or record) do
    size = size + #part
  end
  for i = 0, 9 do
    size = size + redis.call('STRLEN', 'atelier:picture:' .. id .. ':' .. i)
  end
  return size
end
-- Of all styles in an index, as it was kept, or counted: an earlier version kept none.
local function total_of(index, bytes, is_kept)
  local total = is_kept and tonumber(redis.call('GET', bytes))
  if not total then
    total = 0
    for _, id in ipairs(redis.call('ZRANGE', index, 0, -1)) do
      total = total + size_of(id)
    end
  end
  return total
end
local function keep_total(bytes, total)
  redis.call('SET', bytes, string.format('%.0f', total))
end
local function exceeds(number, bound)
  return bound ~= '' and number > tonumber(bound)
end
"""
# KEYS: index, bytes; returns how many styles the tenant has, and their bytes
USAGE = (
    _SIZES
    + """
return {redis.call('ZCARD', KEYS[1]), total_of(KEYS[1], KEYS[2], true)}
"""
)
# KEYS: record, feature, features, index, sequence, bytes, then the pictures
# ARGV: ID, feature, the feature's seconds to live, "replace" or "", the quota of styles and of bytes ("" for
# none), the pictures, then the record's fields
# Returns 0; or 1 and the fields of the record that already exists; or 2 and the usage that leaves no room.
# A full store refuses the first write of a script and none after it, so the first must not be a deletion.
CREATE = (
    _SIZES
    + """
if ARGV[4] ~= 'replace' and redis.call('EXISTS', KEYS[1]) == 1 then
  return {1, redis.call('HGETALL', KEYS[1])}
end
local is_listed = redis.call('ZSCORE', KEYS[4], ARGV[1])
local before, after = is_listed and size_of(ARGV[1]) or 0, 0
for i = 7, #ARGV do
  after = after + #ARGV[i]
end
-- What replaces a damaged style is no longer of the size that was counted.
local num_styles, total = redis.call('ZCARD', KEYS[4]), total_of(KEYS[4], KEYS[6], ARGV[4] ~= 'replace')
if (not is_listed and exceeds(num_styles + 1, ARGV[5]))
    or (after > before and exceeds(total + after - before, ARGV[6])) then
  return {2, num_styles, total}
end
local num_pictures = #KEYS - 6
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
for i = 1, num_pictures do
  redis.call('SET', KEYS[6 + i], ARGV[6 + i])
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], unpack(ARGV, 7 + num_pictures))
redis.call('SADD', KEYS[3], KEYS[2])
if not is_listed then
  redis.call('ZADD', KEYS[4], redis.call('INCR', KEYS[5]), ARGV[1])
end
keep_total(KEYS[6], total + after - before)
return {0}
"""
)
# KEYS: record, index, sequence, bytes, then the pictures
# ARGV: ID, "replace" or "", the pictures, then the record's fields
# Returns 0, with nothing written, when there is a record already.
RESTORE = """
if ARGV[2] ~= 'replace' and redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
local num_pictures = #KEYS - 4
for i = 1, num_pictures do
  redis.call('SET', KEYS[4 + i], ARGV[2 + i])
end
redis.call('HSET', KEYS[1], unpack(ARGV, 3 + num_pictures))
if not redis.call('ZSCORE', KEYS[2], ARGV[1]) then
  redis.call('ZADD', KEYS[2], redis.call('INCR', KEYS[3]), ARGV[1])
end
redis.call('DEL', KEYS[4]) -- counted anew when all are there
return 1
"""
# KEYS: record, index, bytes
# ARGV: ID, the quota of bytes or "", number of arguments that are fields and values to set; these; then the
# fields to remove
# Returns 0 and the fields of the record; 2 and the usage, with nothing written; nil when there is no record.
CHANGE = (
    _SIZES
    + """
if redis.call('EXISTS', KEYS[1]) == 0 then
  return false
end
local num_set, growth = tonumber(ARGV[3]), 0
for i = 4, 3 + num_set, 2 do
  local old = redis.call('HGET', KEYS[1], ARGV[i])
  growth = growth + #ARGV[i + 1] - (old and #old or -#ARGV[i])
end
for i = 4 + num_set, #ARGV do
  local old = redis.call('HGET', KEYS[1], ARGV[i])
  growth = growth - (old and #ARGV[i] + #old or 0)
end
local total = total_of(KEYS[2], KEYS[3], true)
if growth > 0 and exceeds(total + growth, ARGV[2]) then
  return {2, redis.call('ZCARD', KEYS[2]), total}
end
if num_set > 0 then
  redis.call('HSET', KEYS[1], unpack(ARGV, 4, 3 + num_set))
end
if #ARGV > 3 + num_set then
  redis.call('HDEL', KEYS[1], unpack(ARGV, 4 + num_set))
end
keep_total(KEYS[3], total + growth)
return {0, redis.call('HGETALL', KEYS[1])}
"""
)
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
# KEYS: index, bytes, removed, features, record, then every key that a picture may have
# ARGV: ID, seconds for which the place in the index is remembered
# Returns the number of keys and entries removed: 0 when there was no such style.
# A full store lets it run because its first write is a deletion.
DELETE = (
    _SIZES
    + """
local number = redis.call('ZSCORE', KEYS[1], ARGV[1])
local size = number and size_of(ARGV[1])
for _, key in ipairs(redis.call('SMEMBERS', KEYS[4])) do
  redis.call('DEL', key)
end
local num_removed = redis.call('DEL', unpack(KEYS, 4)) + redis.call('ZREM', KEYS[1], ARGV[1])
if number then
  redis.call('SET', KEYS[3], number, 'EX', ARGV[2])
  local total = redis.call('GET', KEYS[2])
  if redis.call('EXISTS', KEYS[1]) == 0 then
    redis.call('DEL', KEYS[2])
  elseif total then
    keep_total(KEYS[2], total - size)
  end
end
return num_removed
"""
)
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
