"""Lua that scripts of several stores share: each puts it before its own, and runs as one."""

from __future__ import annotations

NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""


def keeping(index: str, usage: str, delete: str) -> str:
    """Functions that hold what is kept for a while under a bound of bytes for each tenant and one for all.

    They need NOW. `index` begins the key of a tenant's sorted set of what is kept, by when, as "SIZE:NAME";
    `usage` is the key of the hash of bytes by tenant. `delete` is Lua that deletes what is kept as `name`.
    """
    return f"""
local index, usage = '{index}', '{usage}'
local function drop(tenant, member)
  local size, name = member:match('^(%d+):(.*)$')
  if redis.call('ZREM', index .. tenant, member) == 1
      and redis.call('HINCRBY', usage, tenant, -size) <= 0 then
    redis.call('HDEL', usage, tenant)
  end
  {delete}
end
local function drop_oldest(tenant)
  local oldest = redis.call('ZRANGE', index .. tenant, 0, 0)[1]
  if oldest then
    drop(tenant, oldest)
  else
    redis.call('HDEL', usage, tenant)
  end
end
-- All bytes, and the tenant that has most of them.
local function count()
  local total, most, largest = 0, -1, nil
  local fields = redis.call('HGETALL', usage)
  for i = 1, #fields, 2 do
    local bytes = tonumber(fields[i + 1])
    total = total + bytes
    if bytes > most then
      most, largest = bytes, fields[i]
    end
  end
  return total, largest
end
-- Counts what was just written. Where there is no room for it, the tenant's oldest go; and where there is
-- none in all, the oldest of the tenant that has most.
local function keep(tenant, name, size, milliseconds, max_tenant_bytes, max_total_bytes)
  if redis.call('EXISTS', index .. tenant) == 0 then
    redis.call('HDEL', usage, tenant)
  end
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', index .. tenant, '-inf', now - milliseconds)) do
    drop(tenant, member)
  end
  redis.call('ZADD', index .. tenant, now, size .. ':' .. name)
  redis.call('HINCRBY', usage, tenant, size)
  while tonumber(redis.call('HGET', usage, tenant) or 0) > tonumber(max_tenant_bytes) do
    drop_oldest(tenant)
  end
  local total, largest = count()
  while total > tonumber(max_total_bytes) do
    drop_oldest(largest)
    total, largest = count()
  end
end
"""
