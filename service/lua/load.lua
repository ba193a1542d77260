-- Replace what is held about one user. KEYS body, tail, meta, seen. ARGV ttl_ms, last timestamp, body, tail: records as in append.lua.
local body, tail, meta, seen = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local ttl_ms, last, body_rows, tail_rows = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]
local now = redis.call('TIME')
local epoch = math.max((redis.call('HGET', meta, 'epoch') or 0) + 1, now[1] * 1000000 + now[2])
local total = (#body_rows + #tail_rows) / 16
-- First what a full server refuses, so that it refuses all.
redis.call('HSET', meta, 'schema', '1', 'epoch', string.format('%.0f', epoch), 'total', total, 'last', last)
redis.call('UNLINK', body, tail, seen)
if #body_rows > 0 then redis.call('SET', body, body_rows) end
if #tail_rows > 0 then redis.call('SET', tail, tail_rows) end
for i = 1, 3 do
  if ttl_ms > 0 then redis.call('PEXPIRE', KEYS[i], ttl_ms) else redis.call('PERSIST', KEYS[i]) end
end
return total
