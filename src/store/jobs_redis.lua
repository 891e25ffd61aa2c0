-- SPDX-License-Identifier: Apache-2.0
-- Durable jobs in Redis: each call of store/jobs.h is one run of this script, so it happens as a whole or not at all.
-- ARGV = prefix, now (unix ms), call, its own arguments from ARGV[4] on.
-- Answers {word, queued, job as HGETALL or false, result or false}; jobs_redis.c says what the words mean.
--
--   PREFIX job:ID          hash: the fields of sp_job, and owner, entry (in its stream), level, body (its key), deaths, dead
--   PREFIX body:ID:NONCE   the body: written before `add` with a time to live, which `add` takes away
--   PREFIX pieces:ID:NONCE likewise, a large one: hash of n (how many) and 0, 1 ..., 256 KiB each
--   PREFIX parts:ID        list: what is kept of a running job; gone with its end
--   PREFIX report:ID       hash like pieces: the archive that a finished job left
--   PREFIX chunk:ID:N      the server that works on chunk N of a shared job; goes by itself unless renewed
--   PREFIX open            sorted set: shared jobs by the ms until which they are
--   PREFIX result:ID       the result, JSON
--   PREFIX queue:LEVEL     stream of {id}; LEVEL = high, normal, low; consumer group "workers"
--   PREFIX dead            stream of {id, why}: jobs that were given up
--   PREFIX idem:KEY        the job of an idempotency key
--   PREFIX all, tenant:T   sorted sets of ids, score 0, so by name and thus by time: lists
--   PREFIX expires         sorted set: id by the ms at which it is swept
--   PREFIX webhooks        sorted set: id by the ms at which its webhook is due
--   PREFIX queued, fence   numbers: jobs that wait; the last fencing token
local prefix, now, call = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local QUEUED, RUNNING, DONE, FAILED, CANCELLED = '0', '1', '2', '3', '4'
local WEBHOOK_LEASE_MS = 60000

local function key(name) return prefix .. name end
local function job_key(id) return prefix .. 'job:' .. id end
local function number(n) return string.format('%.0f', n) end
local function get(id, field) return redis.call('HGET', job_key(id), field) or '' end
local function set(id, ...) redis.call('HSET', job_key(id), ...) end
local function queued(by) return redis.call('INCRBY', key('queued'), by) end

local function answer(word, id)
  local job, result = false, false
  if id then
    job = redis.call('HGETALL', job_key(id))
    if #job == 0 then job = false end
    result = redis.call('GET', key('result:' .. id))
  end
  return { word, queued(0), job, result }
end

local function enqueue(id)
  local entry = redis.call('XADD', key('queue:' .. get(id, 'level')), '*', 'id', id)
  set(id, 'entry', entry)
end

-- Only what has been dealt with leaves a stream.
local function leave_queue(id)
  local entry = get(id, 'entry')
  if entry ~= '' then
    local stream = key('queue:' .. get(id, 'level'))
    redis.call('XACK', stream, 'workers', entry)
    redis.call('XDEL', stream, entry)
    set(id, 'entry', '')
  end
end

local function drop_body(id)
  local body = get(id, 'body')
  if body ~= '' then
    redis.call('UNLINK', body)
    set(id, 'body', '')
  end
  redis.call('UNLINK', key('parts:' .. id))
  redis.call('ZREM', key('open'), id)
end

-- To a final state, from any other.
local function finish(id, state, result, ttl_ms)
  if get(id, 'state') == QUEUED then queued(-1) end
  leave_queue(id)
  drop_body(id)
  if result ~= '' then redis.call('SET', key('result:' .. id), result) end
  set(id, 'state', state, 'finished_unix_ms', number(now), 'expires_unix_ms', number(now + ttl_ms))
  redis.call('ZADD', key('expires'), number(now + ttl_ms), id)
  if state == DONE then set(id, 'progress_percent', '100') end
  if get(id, 'webhook') ~= '' and state ~= CANCELLED then
    set(id, 'webhook_pending', '1', 'webhook_at_unix_ms', number(now))
    redis.call('ZADD', key('webhooks'), number(now), id)
  end
end

local function give_up(id, why, result, ttl_ms)
  finish(id, FAILED, result, ttl_ms)
  set(id, 'dead', redis.call('XADD', key('dead'), '*', 'id', id, 'why', why))
end

local function idempotency_key(tenant, name) return key('idem:' .. #tenant .. ':' .. tenant .. ':' .. name) end

local function erase(id)
  local tenant, name, dead = get(id, 'tenant'), get(id, 'idempotency_key'), get(id, 'dead')
  leave_queue(id)
  drop_body(id)
  redis.call('UNLINK', key('result:' .. id), key('report:' .. id))
  if name ~= '' and redis.call('GET', idempotency_key(tenant, name)) == id then redis.call('DEL', idempotency_key(tenant, name)) end
  if dead ~= '' then redis.call('XDEL', key('dead'), dead) end
  redis.call('ZREM', key('all'), id)
  redis.call('ZREM', key('tenant:' .. tenant), id)
  redis.call('ZREM', key('expires'), id)
  redis.call('ZREM', key('webhooks'), id)
  redis.call('DEL', job_key(id))
end

local function is_claimed(id, fence) return get(id, 'state') == RUNNING and get(id, 'fence') == fence end
local function is_there(id, tenant) -- tenant '*' = any
  return redis.call('EXISTS', job_key(id)) == 1 and (tenant == '*' or get(id, 'tenant') == tenant)
end

local calls = {}

-- id, tenant, idempotency key, sha256, level, body's key or '', expires, then field, value, ...
function calls.add(id, tenant, name, sha, level, body, expires)
  if name ~= '' then
    local known = redis.call('GET', idempotency_key(tenant, name))
    if known and get(known, 'request_sha256') == sha then return answer('known', known) end
    if known then return { 'reused', queued(0), false, known } end
  end
  if redis.call('EXISTS', job_key(id)) == 1 then return answer('taken') end
  if body ~= '' then
    if redis.call('EXISTS', body) == 0 then return answer('no body') end
    redis.call('PERSIST', body)
  end
  redis.call('HSET', job_key(id), 'level', level, 'body', body, 'deaths', '0', unpack(ARGV, 11))
  enqueue(id)
  redis.call('ZADD', key('all'), 0, id)
  redis.call('ZADD', key('tenant:' .. tenant), 0, id)
  if tonumber(expires) > 0 then redis.call('ZADD', key('expires'), expires, id) end
  if name ~= '' then redis.call('SET', idempotency_key(tenant, name), id) end
  queued(1)
  return answer('ok', id)
end

function calls.get(id, tenant)
  if not is_there(id, tenant) then return answer('none') end
  return answer('ok', id)
end

-- tenant, state or '-1', task or '', cursor or '', limit, most to look at. Answers {word, queued, cursor, job, job, ...}.
function calls.list(tenant, state, task, cursor, limit, most)
  local index = tenant == '*' and key('all') or key('tenant:' .. tenant)
  local from, looked, found = cursor == '' and '+' or '(' .. cursor, 0, {}
  limit, most = tonumber(limit), tonumber(most)
  while looked < most do
    local ids = redis.call('ZREVRANGEBYLEX', index, from, '-', 'LIMIT', 0, 100)
    if #ids == 0 then return { 'ok', queued(0), '', unpack(found) } end
    for _, id in ipairs(ids) do
      if (state == '-1' or get(id, 'state') == state) and (task == '' or get(id, 'task') == task) then
        if #found == limit then return { 'ok', queued(0), cursor, unpack(found) } end
        found[#found + 1] = redis.call('HGETALL', job_key(id))
      end
      cursor = id
    end
    from, looked = '(' .. cursor, looked + #ids
  end
  return { 'ok', queued(0), cursor, unpack(found) }
end

-- Gives the entry's job to `owner`, if it is one to give. Its owner has gone when it is running still.
local function begin(stream, entry, id, owner, deaths_most, ttl_ms, died)
  local state = get(id, 'state')
  if get(id, 'entry') ~= entry or (state ~= QUEUED and state ~= RUNNING) then
    redis.call('XACK', stream, 'workers', entry)
    redis.call('XDEL', stream, entry)
    return false
  end
  if state == RUNNING then
    if redis.call('HINCRBY', job_key(id), 'deaths', 1) >= tonumber(deaths_most) then
      give_up(id, 'owner_died', died, ttl_ms)
      return false
    end
  else
    queued(-1)
    redis.call('HINCRBY', job_key(id), 'tries', 1) -- taking over is no try of its own
  end
  set(id, 'state', RUNNING, 'fence', redis.call('INCR', key('fence')), 'owner', owner, 'started_unix_ms', number(now),
      'progress_percent', '0')
  return true
end

local function take_over(stream, owner, idle_ms, deaths_most, ttl_ms, died)
  local cursor = '0-0'
  repeat
    local claimed = redis.call('XAUTOCLAIM', stream, 'workers', owner, idle_ms, cursor, 'COUNT', 1)
    cursor = claimed[1]
    for _, entry in ipairs(claimed[2]) do
      if entry and entry[2] and begin(stream, entry[1], entry[2][2], owner, deaths_most, ttl_ms, died) then return entry[2][2] end
    end
  until cursor == '0-0'
  return nil
end

-- owner, idle ms after which an owner has gone, most deaths, ttl, result of one that had too many
function calls.claim(owner, idle_ms, deaths_most, ttl_ms, died)
  ttl_ms = tonumber(ttl_ms)
  for _, level in ipairs({ 'high', 'normal', 'low' }) do
    local stream = key('queue:' .. level)
    local id = take_over(stream, owner, idle_ms, deaths_most, ttl_ms, died)
    while not id do
      local read = redis.call('XREADGROUP', 'GROUP', 'workers', owner, 'COUNT', 1, 'STREAMS', stream, '>')
      if not read then break end
      local entry = read[1][2][1]
      if begin(stream, entry[1], entry[2][2], owner, deaths_most, ttl_ms, died) then id = entry[2][2] end
    end
    if id then return answer('ok', id) end
  end
  return answer('none')
end

function calls.renew(id, fence, percent, owner)
  if not is_claimed(id, fence) then return answer('lost', id) end
  redis.call('XCLAIM', key('queue:' .. get(id, 'level')), 'workers', owner, 0, get(id, 'entry'), 'JUSTID')
  set(id, 'progress_percent', percent)
  return answer('ok', id)
end

function calls.finish(id, fence, state, result, ttl_ms)
  if is_claimed(id, fence) then
    finish(id, state, result, tonumber(ttl_ms))
    return answer('ok', id)
  end
  -- The same finish once more, after an answer that was lost?
  local same = get(id, 'fence') == fence and get(id, 'state') == state
  if same and (redis.call('GET', key('result:' .. id)) or '') == result then return answer('ok', id) end
  return answer('lost', id)
end

-- why as JSON for the result, tries allowed
function calls.release(id, fence, counts, why, result, tries_most, ttl_ms)
  if not is_claimed(id, fence) then return answer('lost', id) end
  if counts == '1' and tonumber(get(id, 'tries')) >= tonumber(tries_most) then
    give_up(id, why, result, tonumber(ttl_ms))
    return answer('ok', id)
  end
  leave_queue(id)
  set(id, 'state', QUEUED, 'progress_percent', '0', 'owner', '')
  if counts ~= '1' then redis.call('HINCRBY', job_key(id), 'tries', -1) end
  enqueue(id)
  queued(1)
  return answer('ok', id)
end

-- The claimed job's body is not there (evicted, or removed by hand).
function calls.body_lost(id, fence, result, ttl_ms)
  if is_claimed(id, fence) then give_up(id, 'body_lost', result, tonumber(ttl_ms)) end
  return answer('ok')
end

function calls.delete(id, tenant, ttl_ms)
  if not is_there(id, tenant) then return answer('none') end
  local state = get(id, 'state')
  if state == QUEUED or state == RUNNING then
    finish(id, CANCELLED, '', tonumber(ttl_ms))
    return answer('ok', id)
  end
  local before = answer('ok', id)
  erase(id)
  return before
end

function calls.webhooks_due(limit)
  local found = {}
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('webhooks'), '-inf', number(now), 'LIMIT', 0, limit)) do
    if redis.call('EXISTS', job_key(id)) == 1 then
      redis.call('ZADD', key('webhooks'), number(now + WEBHOOK_LEASE_MS), id)
      found[#found + 1] = redis.call('HGETALL', job_key(id))
    else
      redis.call('ZREM', key('webhooks'), id)
    end
  end
  return { 'ok', queued(0), '', unpack(found) }
end

function calls.webhook_done(id, delivered, next_unix_ms)
  if not is_there(id, '*') then return answer('none') end
  redis.call('HINCRBY', job_key(id), 'webhook_tries', 1)
  if delivered == '1' or next_unix_ms == '0' then
    redis.call('ZREM', key('webhooks'), id)
    set(id, 'webhook_pending', '0')
  else
    redis.call('ZADD', key('webhooks'), next_unix_ms, id)
    set(id, 'webhook_at_unix_ms', next_unix_ms)
  end
  return answer('ok', id)
end

function calls.sweep(limit, expired, ttl_ms, consumer_idle_ms)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('expires'), '-inf', number(now), 'LIMIT', 0, limit)) do
    local state = get(id, 'state')
    if state == QUEUED then
      finish(id, FAILED, expired, tonumber(ttl_ms))
    elseif state == RUNNING or state == '' then
      redis.call('ZREM', key('expires'), id) -- its end sets a new time; or it is gone
    else
      erase(id)
    end
  end
  -- Names of servers that ended long ago.
  for _, level in ipairs({ 'high', 'normal', 'low' }) do
    for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', key('queue:' .. level), 'workers')) do
      if consumer[4] == 0 and consumer[6] > tonumber(consumer_idle_ms) then
        redis.call('XGROUP', 'DELCONSUMER', key('queue:' .. level), 'workers', consumer[2])
      end
    end
  end
  return answer('ok')
end

-- The body's key is a field of the answered job.
function calls.body(id)
  local state = get(id, 'state')
  if state ~= QUEUED and state ~= RUNNING then return answer('none') end
  return answer('ok', id)
end

-- fence '0' = of one who helps
local function may_add(id, fence) return get(id, 'state') == RUNNING and (fence == '0' or get(id, 'fence') == fence) end

-- Answers word and how many there are.
function calls.part_put(id, fence, bytes, most)
  if not may_add(id, fence) then return answer('lost', id) end
  if redis.call('LLEN', key('parts:' .. id)) >= tonumber(most) then return { 'full', queued(0) } end
  redis.call('RPUSH', key('parts:' .. id), bytes)
  return { 'ok', queued(0) }
end

-- A hash of pieces becomes the job's report.
function calls.report(id, fence, pieces)
  if not is_claimed(id, fence) then return answer('lost', id) end
  if redis.call('EXISTS', pieces) == 0 then return { 'no body', queued(0) } end
  redis.call('UNLINK', key('report:' .. id))
  redis.call('RENAME', pieces, key('report:' .. id))
  redis.call('PERSIST', key('report:' .. id))
  return { 'ok', queued(0) }
end

-- Answers {word, queued, piece or false}.
function calls.report_piece(id, tenant, number)
  if not is_there(id, tenant) then return answer('none') end
  if redis.call('EXISTS', key('report:' .. id)) == 0 then return { 'no report', queued(0) } end
  return { 'ok', queued(0), redis.call('HGET', key('report:' .. id), number) }
end

function calls.share(id, fence, for_ms)
  if not is_claimed(id, fence) then return answer('lost', id) end
  redis.call('ZADD', key('open'), number(now + tonumber(for_ms)), id)
  return { 'ok', queued(0) }
end

function calls.shared(limit)
  local found = {}
  redis.call('ZREMRANGEBYSCORE', key('open'), '-inf', number(now))
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('open'), '-inf', '+inf', 'LIMIT', 0, limit)) do
    if get(id, 'state') == RUNNING then found[#found + 1] = redis.call('HGETALL', job_key(id)) end
  end
  return { 'ok', queued(0), '', unpack(found) }
end

-- Taking and renewing are the same.
function calls.chunk_claim(id, chunk, owner, for_ms)
  if get(id, 'state') ~= RUNNING then return answer('lost', id) end
  local name = key('chunk:' .. id .. ':' .. chunk)
  local has = redis.call('GET', name)
  if has and has ~= owner then return { 'taken', queued(0) } end
  redis.call('SET', name, owner, 'PX', for_ms)
  return { 'ok', queued(0) }
end

return calls[call](unpack(ARGV, 4))
