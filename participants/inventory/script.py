"""The Lua script through which all changes of the gate's counts in Redis go. Each call is atomic.

All keys begin with the same hash tag, so that they are on one node of a cluster:

- `{stock}:sku:SKU`, a hash: `tokens`, the units that may still be taken, and `epoch`, which changes
  whenever the database has set or corrected them.
- `{stock}:held:N`, a hash: the units that each branch has taken and not given back, and their SKU. N counts
  periods of `branch_ms`. The branches of a period are forgotten together, one period after its end.
- `{stock}:flight:SKU`, a hash: the branches that have taken units and may not have committed yet, each
  with its units and the time.
- `{stock}:unknown:SKU`: the database has no such SKU.
- `{stock}:loading:SKU`: a process is reading the SKU from the database.
- `{stock}:compared`, a sorted set: the SKUs by the time of their last comparison.

A branch's KEY is its gid, a NUL and its branch_id. ARGV: the operation, and its parameters as MessagePack.
A time is that of Redis, in milliseconds.
"""

SCRIPT = """
local operation, request = ARGV[1], cmsgpack.unpack(ARGV[2])
local REFUSED, TAKEN, PASSED = 0, 1, 2
local COMPARED = '{stock}:compared'
local CHUNK = 1000  -- of arguments: Lua limits them
-- A value of more than 64 bytes makes Redis keep a hash as a hash table, however small it is. Otherwise it
-- is a list of up to 512 fields, and each one written is first looked for from its beginning.
local PADDING = string.rep(' ', 64)

local function name(kind, id) return '{stock}:' .. kind .. ':' .. id end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function call_in_chunks(command, key, arguments)
  for first = 1, #arguments, CHUNK do
    redis.call(command, key, unpack(arguments, first, math.min(first + CHUNK - 1, #arguments)))
  end
end

-- The names of the present period's branches, and of those of the one before.
local function held_keys(now)
  local period = math.floor(now / request.branch_ms)
  return name('held', period), name('held', period - 1)
end

-- What branches hold, in their order.
local function held_by(keys, current, previous)
  local held = redis.call('HMGET', current, unpack(keys))
  if redis.call('EXISTS', previous) == 1 then
    local before = redis.call('HMGET', previous, unpack(keys))
    for i = 1, #keys do held[i] = held[i] or before[i] end
  end
  return held
end

-- Take units for branches in order. Return which SKUs are unknown, or not here and who is to load them.
local function take_sku(group, now)
  local sku = group.sku
  local tokens = tonumber(redis.call('HGET', name('sku', sku), 'tokens') or nil)
  if not tokens then
    if redis.call('EXISTS', name('unknown', sku)) == 1 then return 'unknown' end
    local first = redis.call('SET', name('loading', sku), 1, 'NX', 'PX', request.loading_ms)
    return first and 'load' or 'loading'
  end
  local keys, units, repeated = group.branches, group.units, group.repeated
  local flights, holds, answers, taken = {}, {}, {}, 0
  -- By the number of units: numbers are slow to write, and most branches want the same.
  local hold_of, flight_of = {}, {}
  local current, previous = held_keys(now)
  local held = held_by(keys, current, previous)
  for i, key in ipairs(keys) do
    local wanted = units[i]
    if held[i] then
      answers[i] = TAKEN
    elseif wanted <= tokens - taken then
      if not hold_of[wanted] then
        hold_of[wanted], flight_of[wanted] = wanted .. ':' .. sku, wanted .. ':' .. now .. PADDING
      end
      taken = taken + wanted
      local at = #flights
      holds[at + 1], holds[at + 2] = key, hold_of[wanted]
      flights[at + 1], flights[at + 2] = key, flight_of[wanted]
      answers[i] = TAKEN
    else
      answers[i] = repeated[i] and PASSED or REFUSED
    end
  end
  if taken > 0 then
    call_in_chunks('HSET', current, holds)
    redis.call('PEXPIRE', current, 2 * request.branch_ms)
    call_in_chunks('HSET', name('flight', sku), flights)
    redis.call('PEXPIRE', name('flight', sku), request.branch_ms)
    redis.call('HINCRBY', name('sku', sku), 'tokens', -taken)
  end
  redis.call('PEXPIRE', name('sku', sku), group.keep_ms)
  return answers
end

local function take()
  local now, answers = now_ms(), {}
  for sku, keys in pairs(request.landed) do call_in_chunks('HDEL', name('flight', sku), keys) end
  for i, group in ipairs(request.groups) do answers[i] = take_sku(group, now) end
  return cmsgpack.pack(answers)
end

-- Give back what these branches hold. A branch that holds nothing gives nothing.
local function give_back()
  local given = 0
  local current, previous = held_keys(now_ms())
  for _, key in ipairs(request.branches) do
    local held = held_by({key}, current, previous)[1]
    if held then
      redis.call('HDEL', current, key)
      redis.call('HDEL', previous, key)
      local units, sku = string.match(held, '^(%d+):(.*)$')
      redis.call('HDEL', name('flight', sku), key)
      if redis.call('EXISTS', name('sku', sku)) == 1 then
        redis.call('HINCRBY', name('sku', sku), 'tokens', units)
      end
      given = given + 1
    end
  end
  return given
end

-- Claim SKUs whose last comparison is too old.
local function due()
  local now, found = now_ms(), {}
  local range = {'-inf', now - request.interval_ms, 'LIMIT', 0, request.skus_max}
  for _, sku in ipairs(redis.call('ZRANGEBYSCORE', COMPARED, unpack(range))) do
    if redis.call('EXISTS', name('sku', sku)) == 1 then
      redis.call('ZADD', COMPARED, now, sku)
      found[#found + 1] = sku
    else
      redis.call('ZREM', COMPARED, sku)
    end
  end
  return found
end

local function read()
  local found = {now_ms()}
  for _, sku in ipairs(request.skus) do
    local stock = redis.call('HMGET', name('sku', sku), 'tokens', 'epoch')
    found[#found + 1] = {stock[1], stock[2] or '', redis.call('HGETALL', name('flight', sku))}
  end
  return cmsgpack.pack(found)
end

-- Forget flights that have ended. Those that died also lose what they hold.
local function land(change)
  call_in_chunks('HDEL', name('flight', change.sku), change.ended)
  call_in_chunks('HDEL', name('flight', change.sku), change.dead)
  local current, previous = held_keys(now_ms())
  call_in_chunks('HDEL', current, change.dead)
  call_in_chunks('HDEL', previous, change.dead)
end

-- Add `units` to a SKU if it was neither set nor corrected since it was read; load it if it was absent.
local function correct_sku(change)
  local key = name('sku', change.sku)
  if (redis.call('HGET', key, 'epoch') or '') ~= change.epoch then return 0 end
  land(change)
  if change.unknown_ms > 0 then
    redis.call('DEL', key)
    redis.call('SET', name('unknown', change.sku), 1, 'PX', change.unknown_ms)
  elseif change.epoch == '' or change.units ~= 0 then
    redis.call('HINCRBY', key, 'tokens', change.units)
    redis.call('HSET', key, 'epoch', change.new_epoch)
  end
  if change.epoch == '' and change.unknown_ms == 0 then
    redis.call('PEXPIRE', key, change.keep_ms)
    redis.call('DEL', name('unknown', change.sku))
    redis.call('ZADD', COMPARED, now_ms(), change.sku)
  end
  redis.call('DEL', name('loading', change.sku))
  return 1
end

local function correct()
  local done = {}
  for i, change in ipairs(request.changes) do done[i] = correct_sku(change) end
  return done
end

local operations = {take = take, give_back = give_back, due = due, read = read, correct = correct}
return operations[operation]()
"""
