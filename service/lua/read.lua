-- What is new about one user. KEYS body, tail, meta. ARGV epoch and length that the reader holds, how many of the newest of them to send
-- again, and how many records at most. Returns nothing for an unknown user, else epoch, total and the records; these are left out where
-- the reader must read everything (Lua copies what it returns four times, GET once), which also names what is damaged.
local SIZE = 16
local body, tail, meta = KEYS[1], KEYS[2], KEYS[3]
local length, again, most = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local held = redis.call('HMGET', meta, 'schema', 'epoch', 'total')
if not held[1] then return {} end
if held[1] ~= '1' then return redis.error_reply('DARESCHEMA ' .. held[1]) end
local total = tonumber(held[3])
if held[2] ~= ARGV[1] or total < length or total - length > most then return {held[2], total} end
local body_length, tail_length = redis.call('STRLEN', body) / SIZE, redis.call('STRLEN', tail) / SIZE
if body_length + tail_length ~= total then return {held[2], total} end
local from = math.max(0, length - again)
if from >= body_length then return {held[2], total, redis.call('GETRANGE', tail, (from - body_length) * SIZE, -1)} end
return {held[2], total, redis.call('GETRANGE', body, from * SIZE, -1) .. redis.call('GETRANGE', tail, 0, -1)}
