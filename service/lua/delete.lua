-- Erase one user and tell every process that may remember them. KEYS body, tail, meta, seen. ARGV channel, user. Returns behaviors held.
local total = redis.call('HGET', KEYS[3], 'total') or 0
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
redis.call('PUBLISH', ARGV[1], ARGV[2])
return tonumber(total)
