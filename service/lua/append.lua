-- Append one user's behaviors: leaves duplicates out, keeps order, trims; all or nothing.
-- KEYS body, tail, meta, seen, spare. ARGV longest, slack, tail_least, tail_most, remembered, ttl_ms, records, one event id per
-- record ('' for none).
-- Returns accepted, duplicates. A record is 16 bytes, little-endian: item hash u64, timestamp u32, bits u32.
-- Nothing is written before the first HSET, which a full server refuses; what follows it in a script is not refused.
local SIZE = 16
local body, tail, meta, seen, spare = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local longest, slack, tail_least, tail_most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local remembered, ttl_ms, records = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]

local function time_of(rows, place) return (struct.unpack('<I4', rows, place * SIZE + 9)) end
local function cut(rows, from, to) return string.sub(rows, from * SIZE + 1, to * SIZE) end

local fresh, events, count = {}, {}, #records / SIZE
local added = {}
for i = 1, count do
  local event = ARGV[7 + i]
  if event == '' then
    fresh[#fresh + 1] = cut(records, i - 1, i)
  elseif not added[event] and not redis.call('ZSCORE', seen, event) then
    added[event] = true
    events[#events + 1] = event
    fresh[#fresh + 1] = cut(records, i - 1, i)
  end
end
if #fresh == 0 then return {0, count} end
local arrival = {}
for i = 1, #fresh do arrival[i] = i end
table.sort(arrival, function(x, y)
  local first, second = time_of(fresh[x], 0), time_of(fresh[y], 0)
  if first ~= second then return first < second end
  return x < y
end)

local held = redis.call('HMGET', meta, 'schema', 'epoch', 'total', 'last')
if held[1] and held[1] ~= '1' then return redis.error_reply('DARESCHEMA ' .. held[1]) end
local epoch, total, last = tonumber(held[2] or 0), tonumber(held[3] or 0), tonumber(held[4] or 0)
local tail_length = redis.call('STRLEN', tail) / SIZE
local body_length = redis.call('STRLEN', body) / SIZE
if body_length + tail_length ~= total then return redis.error_reply('DAREDAMAGED') end

-- Never used twice, not even by a user erased and seen again: microseconds, or one more where the clock went back.
local function next_epoch()
  local now = redis.call('TIME')
  epoch = math.max(epoch + 1, now[1] * 1000000 + now[2])
end

-- `rows` with the fresh behaviors among them, each after those of its own time.
local function with_fresh(rows)
  local pieces, from, length = {}, 0, #rows / SIZE
  for i = 1, #arrival do
    local record = fresh[arrival[i]]
    local time, low, high = time_of(record, 0), from, length
    while low < high do
      local middle = math.floor((low + high) / 2)
      if time_of(rows, middle) > time then high = middle else low = middle + 1 end
    end
    pieces[#pieces + 1] = cut(rows, from, low)
    pieces[#pieces + 1] = record
    from = low
  end
  pieces[#pieces + 1] = cut(rows, from, length)
  return table.concat(pieces)
end

-- What body and tail hold from `from` on becomes `moved` and `rest`; until then nothing is written.
local oldest = time_of(fresh[arrival[1]], 0)
local late = total > 0 and oldest < last
local from, moved, rest = body_length, '', nil
if late and body_length > 0 and oldest < time_of(redis.call('GETRANGE', tail, 0, SIZE - 1), 0) then
  local low, high = 0, body_length
  while low < high do
    local middle = math.floor((low + high) / 2)
    local time = struct.unpack('<I4', redis.call('GETRANGE', body, middle * SIZE + 8, middle * SIZE + 11))
    if time > oldest then high = middle else low = middle + 1 end
  end
  from = low
  local rows = with_fresh(redis.call('GETRANGE', body, from * SIZE, -1) .. redis.call('GET', tail))
  moved, rest = cut(rows, 0, #rows / SIZE - tail_length), string.sub(rows, -tail_length * SIZE)
elseif late then
  rest = with_fresh(redis.call('GET', tail))
end
if not held[1] or late then next_epoch() end
total, last = total + #fresh, math.max(last, time_of(fresh[arrival[#arrival]], 0))
local tail_limit = math.max(tail_least, math.min(tail_most, math.floor(total / 32)))
if (rest and #rest / SIZE or tail_length + #fresh) > tail_limit then
  rest = rest or with_fresh(redis.call('GET', tail) or '')
  -- Half stays: readers a little behind, and late behaviors, need the tail alone.
  local kept = math.ceil(tail_limit / 2) * SIZE
  moved, rest = moved .. string.sub(rest, 1, #rest - kept), string.sub(rest, -kept)
end
local surplus = 0
if total > longest + slack then
  surplus = total - longest
  next_epoch()
end

redis.call('HSET', meta, 'schema', '1', 'epoch', string.format('%.0f', epoch), 'total', total - surplus, 'last', last)
if rest then redis.call('SET', tail, rest) else redis.call('APPEND', tail, with_fresh('')) end
if surplus > 0 then
  local before = from > 0 and redis.call('GETRANGE', body, 0, from * SIZE - 1) or ''
  redis.call('SET', body, string.sub(before .. moved, surplus * SIZE + 1))
elseif #moved > 0 then
  redis.call('SETRANGE', body, from * SIZE, moved)
  -- A string that grew keeps room to grow, up to as much again; a copy is as long as its content.
  redis.call('COPY', body, spare, 'REPLACE')
  redis.call('RENAME', spare, body)
end
if #events > 0 then
  -- Room first: with 129 members for an instant the set would leave its compact encoding for ever.
  local excess = redis.call('ZCARD', seen) + #events - remembered
  if excess > 0 then redis.call('ZREMRANGEBYRANK', seen, 0, excess - 1) end
  local newest = redis.call('ZRANGE', seen, -1, -1, 'WITHSCORES')
  local place = tonumber(newest[2] or 0)
  for i = math.max(1, #events - remembered + 1), #events do
    place = place + 1
    redis.call('ZADD', seen, place, events[i])
  end
end
for i = 1, 4 do
  if ttl_ms > 0 then redis.call('PEXPIRE', KEYS[i], ttl_ms) else redis.call('PERSIST', KEYS[i]) end
end
return {#fresh, count - #fresh}
