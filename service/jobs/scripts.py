"""The scripts that change several keys of a job as one: each writes everything or nothing.

KEYS: the job's record, then what the script says. A script whose last argument is `run` changes nothing, and
returns 0, unless it is given the number of the run that the record has: a worker that was taken for dead, and
whose job another one runs, can neither report progress nor finish it.
"""

from __future__ import annotations

from service.storage.lua import NOW, keeping

GROUP = "workers"

_OWN_RUN = """
local record = redis.call('HMGET', KEYS[1], 'status', 'run')
if record[1] ~= 'running' or record[2] ~= ARGV[#ARGV] then
  return 0
end
"""
# Takes an open job out of the queue, and its request out of the store; then it counts no more, and its
# webhook is due.
_CLOSE = """
local function close(id)
  local job = 'atelier:job:' .. id
  local fields = redis.call('HMGET', job, 'stream', 'entry', 'owner', 'bytes', 'webhook')
  if fields[5] then
    redis.call('HSET', 'atelier:webhook:' .. id, 'target', fields[5], 'attempts', 0)
    redis.call('ZADD', 'atelier:webhooks_due', now, id)
  end
  if fields[2] then
    redis.call('XACK', fields[1], 'workers', fields[2])
    redis.call('XDEL', fields[1], fields[2])
  else
    redis.call('LREM', fields[1] .. ':of:' .. fields[3], 1, id)
  end
  for key, number in pairs({['atelier:jobs_open'] = 1, ['atelier:jobs_open_bytes'] = fields[4]}) do
    if redis.call('HINCRBY', key, fields[3], -number) <= 0 then
      redis.call('HDEL', key, fields[3])
    end
  end
  redis.call('DEL', 'atelier:job_request:' .. id, 'atelier:job_preview:' .. id)
end
"""
_RESULTS = keeping(
    "atelier:job_results:", "atelier:job_result_bytes", "redis.call('DEL', 'atelier:job_result:' .. name)"
)
# KEYS: request, stream, index of the tenant, sequence
# ARGV: ID, request, digest of the request, owner, the most jobs and the most bytes of requests that may be
# open, then the fields of the record
# Returns 0; 1 when the job exists; 2 when another one of this ID does; 3, the number of open jobs, and the
# seconds that one takes, when there is no room. An owner always has its share of the room, so that none is
# refused because of the others.
SUBMIT = (
    NOW
    + """
local known = redis.call('HGET', KEYS[1], 'digest')
if known then
  return {known == ARGV[3] and 1 or 2}
end
local function total_of(key)
  local total, num_owners = 0, 0
  for i, value in ipairs(redis.call('HGETALL', key)) do
    if i % 2 == 0 then
      total, num_owners = total + value, num_owners + 1
    end
  end
  local own = redis.call('HGET', key, ARGV[4])
  return total, tonumber(own or 0), num_owners + (own and 0 or 1)
end
for key, added in pairs({['atelier:jobs_open'] = 1, ['atelier:jobs_open_bytes'] = #ARGV[2]}) do
  local bound = tonumber(key == 'atelier:jobs_open' and ARGV[5] or ARGV[6])
  local total, own, num_owners = total_of(key)
  if total + added > bound and own + added > bound / num_owners then
    return {3, (total_of('atelier:jobs_open')), redis.call('HGET', 'atelier:job_seconds', KEYS[3])}
  end
end
redis.call('SET', KEYS[2], ARGV[2])
redis.call('ZADD', KEYS[3] .. ':turns', 'NX', redis.call('HGET', 'atelier:job_turn', KEYS[3]) or 0, ARGV[4])
redis.call('RPUSH', KEYS[3] .. ':of:' .. ARGV[4], ARGV[1])
redis.call('HSET', KEYS[1], 'status', 'queued', 'created', now, 'stream', KEYS[3], 'digest', ARGV[3],
  'owner', ARGV[4], 'bytes', #ARGV[2], unpack(ARGV, 7))
redis.call('HINCRBY', 'atelier:jobs_open', ARGV[4], 1)
redis.call('HINCRBY', 'atelier:jobs_open_bytes', ARGV[4], #ARGV[2])
for _, id in ipairs(redis.call('ZRANGE', KEYS[4], 0, 9)) do
  if redis.call('EXISTS', 'atelier:job:' .. id) == 0 then
    redis.call('ZREM', KEYS[4], id)
  end
end
redis.call('ZADD', KEYS[4], redis.call('INCR', KEYS[5]), ARGV[1])
redis.call('PUBLISH', 'atelier:job_news', KEYS[3] .. ' queued')
return {0}
"""
)
# KEYS: stream; ARGV: worker, the most
# Gives a worker jobs: moves them from the lists in which they wait into the stream, and reads it. Owners take
# turns by start-time fair queueing, as in batching/job_queue.py: the one whose next turn is the lowest, and a
# new one starts at the turn that was reached. Returns entries with their fields.
TAKE = """
local stream, turns = KEYS[1], KEYS[1] .. ':turns'
local function next_owner()
  for _, owner in ipairs(redis.call('ZRANGE', turns, 0, -1)) do
    if redis.call('EXISTS', stream .. ':of:' .. owner) == 1 then
      return owner
    end
  end
end
redis.pcall('XGROUP', 'CREATE', stream, 'workers', '0', 'MKSTREAM')
for _ = 1, ARGV[2] do
  local owner = next_owner()
  if not owner then
    break
  end
  local turn, list = redis.call('ZSCORE', turns, owner), stream .. ':of:' .. owner
  local id = redis.call('LINDEX', list, 0)
  local job = 'atelier:job:' .. id
  local entry = redis.call('XADD', stream, '*', 'id', id)
  redis.call('LPOP', list)
  local weight, caller = 1, redis.call('HGET', job, 'caller')
  if caller then
    redis.call('HSET', job, 'entry', entry)
    weight = cjson.decode(caller).weight
  end
  redis.call('HSET', 'atelier:job_turn', stream, turn)
  redis.call('ZADD', turns, turn + 1 / weight, owner)
  for _, passed in ipairs(redis.call('ZRANGEBYSCORE', turns, '-inf', turn)) do
    if redis.call('EXISTS', stream .. ':of:' .. passed) == 0 then
      redis.call('ZREM', turns, passed)
    end
  end
end
local found = redis.call('XREADGROUP', 'GROUP', 'workers', ARGV[1], 'COUNT', ARGV[2], 'STREAMS', stream, '>')
return found and found[1][2] or {}
"""
# KEYS: stream; returns how many jobs wait or run
SIZE = """
local num_open = redis.call('XLEN', KEYS[1])
for _, owner in ipairs(redis.call('ZRANGE', KEYS[1] .. ':turns', 0, -1)) do
  num_open = num_open + redis.call('LLEN', KEYS[1] .. ':of:' .. owner)
end
return num_open
"""
# KEYS: request; ARGV: the most attempts
# Returns nothing for a job that has ended; the run, the attempt, the request and the record. The request is
# nil when there was the most attempts before.
START = (
    NOW
    + """
local found = redis.call('HMGET', KEYS[1], 'status', 'attempts', 'started')
if found[1] ~= 'queued' and found[1] ~= 'running' then
  return {}
end
local attempts = tonumber(found[2] or 0)
local run = redis.call('HINCRBY', KEYS[1], 'run', 1)
local is_exhausted = attempts >= tonumber(ARGV[1])
redis.call('HSET', KEYS[1], 'status', 'running', 'attempts', is_exhausted and attempts or attempts + 1,
  'started', found[3] or now, 'progress', 0)
local request = not is_exhausted and redis.call('GET', KEYS[2])
return {run, attempts, request, redis.call('HGETALL', KEYS[1])}
"""
)
# KEYS: stream; ARGV: entry, worker; returns 0 when the entry is another worker's, or nobody's, by now.
RENEW = """
local pending = redis.call('XPENDING', KEYS[1], 'workers', ARGV[1], ARGV[1], 1)[1]
if not pending or pending[2] ~= ARGV[2] then
  return 0
end
redis.call('XCLAIM', KEYS[1], 'workers', ARGV[2], 0, ARGV[1], 'JUSTID')
return 1
"""
# KEYS: preview; ARGV: ID, progress, preview, its seconds to live, run
PROGRESS = (
    _OWN_RUN
    + """
if ARGV[3] ~= '' then
  redis.call('SET', KEYS[2], ARGV[3], 'EX', ARGV[4])
end
redis.call('HSET', KEYS[1], 'progress', ARGV[2])
redis.call('PUBLISH', 'atelier:job_news', ARGV[1] .. ' running')
return 1
"""
)
# KEYS: stream; ARGV: ID, worker, run
# The job waits again, as if it had not been started; any worker may claim it at once.
RELEASE = (
    _OWN_RUN
    + """
redis.call('HSET', KEYS[1], 'status', 'queued', 'progress', 0)
redis.call('HINCRBY', KEYS[1], 'attempts', -1)
local entry = redis.call('HGET', KEYS[1], 'entry')
redis.call('XCLAIM', KEYS[2], 'workers', ARGV[2], 0, entry, 'IDLE', 86400000, 'JUSTID')
redis.call('PUBLISH', 'atelier:job_news', ARGV[1] .. ' queued')
return 1
"""
)
# KEYS: result; ARGV: ID, status, the result or the error, tenant, seconds to live, the most bytes of the
# results of a tenant, and of all, seconds that the job took, run
# Returns 1 also when this run has finished the job before: the reply was lost.
FINISH = (
    NOW
    + """
local before = redis.call('HMGET', KEYS[1], 'status', 'finished_run')
if before[1] == ARGV[2] and before[2] == ARGV[#ARGV] then
  return 1
end
"""
    + _OWN_RUN
    + _CLOSE
    + _RESULTS
    + """
local id, status, tenant, milliseconds = ARGV[1], ARGV[2], ARGV[4], 1000 * ARGV[5]
local is_success = status == 'succeeded'
if is_success then
  redis.call('SET', KEYS[2], ARGV[3], 'PX', milliseconds)
end
redis.call('HSET', KEYS[1], 'status', status, 'finished', now, 'expires', now + milliseconds,
  'finished_run', ARGV[#ARGV], is_success and 'progress' or 'error', is_success and 1 or ARGV[3])
close(id)
redis.call('PEXPIRE', KEYS[1], 2 * milliseconds)
redis.call('PUBLISH', 'atelier:job_news', id .. ' ' .. status)
if not is_success then
  return 1
end
local stream = redis.call('HGET', KEYS[1], 'stream')
local seconds = tonumber(redis.call('HGET', 'atelier:job_seconds', stream) or ARGV[8])
redis.call('HSET', 'atelier:job_seconds', stream, tostring(seconds + 0.25 * (ARGV[8] - seconds)))
keep(tenant, id, #ARGV[3], milliseconds, ARGV[6], ARGV[7])
return 1
"""
)
# KEYS: result; ARGV: ID, tenant, seconds to live
# Cancels an open job; of one that succeeded the result goes. Returns 1 if it was open, else 0.
CANCEL = (
    NOW
    + _CLOSE
    + _RESULTS
    + """
local id, status = ARGV[1], redis.call('HGET', KEYS[1], 'status')
if status == 'queued' or status == 'running' then
  redis.call('HSET', KEYS[1], 'status', 'cancelled', 'finished', now)
  close(id)
  redis.call('EXPIRE', KEYS[1], 2 * ARGV[3])
  redis.call('PUBLISH', 'atelier:job_news', id .. ' cancelled')
  return 1
end
local size = redis.call('STRLEN', KEYS[2])
if size > 0 then
  drop(ARGV[2], size .. ':' .. id)
end
return 0
"""
)
# KEYS[1]: stream; ARGV: milliseconds without a word after which a worker without jobs is forgotten
FORGET = """
for _, worker in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], 'workers')) do
  local fields = {}
  for i = 1, #worker, 2 do
    fields[worker[i]] = worker[i + 1]
  end
  if fields['pending'] == 0 and fields['idle'] > tonumber(ARGV[1]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], 'workers', fields['name'])
  end
end
"""
# KEYS[1]: index of the tenant; ARGV: the ID to continue after or "", the maximal number, "asc" or "desc"
# Returns IDs; nil when the ID to continue after is not in the index.
LIST = """
local rev = ARGV[3] == 'desc' and 'REV' or ''
local first = 0
if ARGV[1] ~= '' then
  local rank = redis.call('Z' .. rev .. 'RANK', KEYS[1], ARGV[1])
  if not rank then
    return false
  end
  first = rank + 1
end
return redis.call('Z' .. rev .. 'RANGE', KEYS[1], first, first + ARGV[2] - 1)
"""
