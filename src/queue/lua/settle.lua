-- How a run of a job ends, whoever says so: its worker, or who finds that the worker is gone.
--
-- date, result (name, value, ... of the entry in the results)

local RESULT_TTL_DEFAULT = 500
local FAILURE_TTL_DEFAULT = 365 * 24 * 60 * 60
local RESULTS_MAX = 10

-- Whether a waiting job waits for nothing more, now that this parent has ended so.
local function waits_for_nothing(child, parent, outcome)
  local allows_failure = get(child, 'allow_dependency_failures') == '1'
  if outcome ~= 'finished' and not allows_failure then
    return false
  end
  for _, other in ipairs(try('SMEMBERS', dependencies_key(child)) or {}) do
    local status = other ~= parent and get(other, 'status')
    if status and status ~= 'finished' and not (status == 'failed' and allows_failure) then
      return false
    end
  end
  return true
end

-- Enqueues the jobs that waited for this one alone. outcome: finished or failed.
local function release(parent, outcome)
  local released = {}
  for _, child in ipairs(try('SMEMBERS', dependents_key(parent)) or {}) do
    local queue = is_job_id(child) and is_job(child) and get(child, 'origin')
    if queue and get(child, 'status') == 'deferred' and fits(queue_key(queue), 'list')
        and waits_for_nothing(child, parent, outcome) then
      redis.call('HSET', job_key(child), 'status', 'queued', 'enqueued_at', given.date)
      try('ZREM', key('deferred', queue), child)
      push(queue, child, get(child, 'enqueue_at_front') == '1')
      try('SREM', dependents_key(parent), child)
      table.insert(released, child)
    end
  end
  return released
end

local function add_result(id, ttl)
  local results = key('results', id)
  if all.result and try('XADD', results, 'MAXLEN', '~', RESULTS_MAX, '*', unpack(all.result)) then
    expire(results, ttl)
  end
end

local function expire_job(id, ttl)
  expire(job_key(id), ttl)
  expire(dependents_key(id), ttl)
  expire(dependencies_key(id), ttl)
end

-- The time to wait before the next try, of which so many were left.
local function retry_interval(id, left)
  local text = get(id, 'retry_intervals')
  local good, intervals = pcall(cjson.decode, text or '[]')
  if not good or type(intervals) ~= 'table' or #intervals == 0 then
    return 0
  end
  local interval = intervals[math.max(#intervals - left, 0) + 1]
  if type(interval) ~= 'number' or interval ~= interval or interval < 0 or interval > 2 ^ 31 then
    return 0
  end
  return math.floor(interval)
end

local function schedule(id, queue, seconds)
  try('SADD', key('queues'), queue_key(queue))
  redis.call('ZADD', key('scheduled', queue), now + seconds, id)
  try('PERSIST', job_key(id))
end

-- An answer that ends with ids; `unpack` ends the script where there are some thousands of them.
local function with_ids(words, ids)
  for _, id in ipairs(ids) do
    table.insert(words, id)
  end
  return words
end

local settle = {}

function settle.success(id, queue)
  local ttl = whole(get(id, 'result_ttl'), RESULT_TTL_DEFAULT)
  redis.call('HSET', job_key(id), 'status', 'finished', 'ended_at', given.date, 'last_heartbeat', given.date)
  local released = release(id, 'finished')
  if ttl == 0 then
    try('DEL', job_key(id), dependents_key(id), dependencies_key(id))
  else
    add_result(id, ttl)
    try('ZADD', key('finished', queue), score(ttl), id)
    expire_job(id, ttl)
  end
  return 'finished', released
end

local function end_badly(id, queue, status)
  local ttl = whole(get(id, 'failure_ttl'), FAILURE_TTL_DEFAULT)
  redis.call('HSET', job_key(id), 'status', status, 'ended_at', given.date, 'last_heartbeat', given.date)
  try('ZADD', key('failed', queue), score(ttl), id)
  add_result(id, ttl)
  expire_job(id, ttl)
end

function settle.stopped(id, queue)
  end_badly(id, queue, 'stopped')
  return 'stopped', {}
end

function settle.failed_finally(id, queue)
  end_badly(id, queue, 'failed')
  return 'failed', release(id, 'failed')
end

function settle.failed(id, queue)
  local left = whole(get(id, 'retries_left'), 0)
  if left <= 0 then
    return settle.failed_finally(id, queue)
  end
  local interval = retry_interval(id, left)
  if interval > 0 and fits(key('scheduled', queue), 'zset') then
    redis.call('HSET', job_key(id), 'status', 'scheduled', 'retries_left', left - 1, 'ended_at', given.date)
    schedule(id, queue, interval)
    return 'scheduled', {}
  end
  if not fits(queue_key(queue), 'list') then
    return settle.failed_finally(id, queue)
  end
  redis.call('HSET', job_key(id), 'status', 'queued', 'retries_left', left - 1, 'ended_at', given.date, 'enqueued_at', given.date)
  push(queue, id, get(id, 'enqueue_at_front_on_retry') == '1')
  return 'queued', {}
end

-- Given back: as if it had never been taken.
function settle.requeued(id, queue)
  if not fits(queue_key(queue), 'list') then
    return settle.failed_finally(id, queue)
  end
  redis.call('HSET', job_key(id), 'status', 'queued', 'started_at', '', 'worker_name', '')
  push(queue, id, true)
  return 'queued', {}
end

function settle.delayed(id, queue)
  if not fits(key('scheduled', queue), 'zset') then
    return settle.requeued(id, queue)
  end
  redis.call('HSET', job_key(id), 'status', 'scheduled', 'started_at', '', 'worker_name', '')
  schedule(id, queue, tonumber(given.seconds))
  return 'scheduled', {}
end
