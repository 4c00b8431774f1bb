-- Takes the next job: the id leaves its list and the job is started, in one step.
--
-- worker, execution, queue (the first is served first) ..., interval, date, unix, bytes_max
-- Answers: job ID QUEUE FIELDS LONG | nothing | again | suspended | unregistered

local SKIPPED_MAX = 1000
local GRACE_SECONDS = 60
local TIMEOUT_DEFAULT = 180

local worker, execution = given.worker, given.execution
local worker_name = worker_key(worker)

if type_of(worker_name) ~= 'hash' or redis.call('HEXISTS', worker_name, 'birth') == 0
    or redis.call('HEXISTS', worker_name, 'death') == 1 then
  return {'unregistered'}
end

local function answer(id, queue)
  local fields, long = read_fields(job_key(id), JOB_FIELDS)
  return {'job', id, queue, fields, long}
end

-- The answer to the first time was lost: the same again.
local current = redis.call('HGET', worker_name, 'current_job')
if current and is_job_id(current) and is_mine(current, worker, execution)
    and get(current, 'status') == 'started' and redis.call('EXISTS', execution_key(current, execution)) == 1 then
  return answer(current, get(current, 'origin'))
end

if redis.call('EXISTS', key('suspended')) == 1 then
  return {'suspended'}
end

local OVER = {canceled = true, finished = true, started = true}

local function start(id, queue)
  local job = job_key(id)
  local timeout = whole(get(id, 'timeout'), TIMEOUT_DEFAULT)
  local interval = tonumber(given.interval)
  local ttl = (timeout >= 0 and math.min(timeout, interval) or interval) + GRACE_SECONDS
  local member = id .. ':' .. execution
  -- Whatever the hash said before: it runs where it was found, and every registry of it is that queue's.
  redis.call('HSET', job, 'last_heartbeat', given.date, 'status', 'started', 'started_at', given.date, 'worker_name', worker,
    'origin', queue)
  redis.call('LPOP', queue_key(queue))
  redis.call('PERSIST', job)
  redis.call('HSET', worker_name, 'current_job', id, 'current_job_working_time', '0', 'state', 'busy',
    'last_heartbeat', given.date)
  redis.call('EXPIRE', worker_name, ttl)
  try('DEL', executions_key(id))
  try('HSET', execution_key(id, execution), 'id', execution, 'job_id', id, 'created_at', given.unix,
    'last_heartbeat', given.unix, 'worker_name', worker)
  try('EXPIRE', execution_key(id, execution), ttl)
  try('ZADD', executions_key(id), now + ttl + GRACE_SECONDS, execution)
  try('EXPIRE', executions_key(id), ttl + GRACE_SECONDS)
  try('ZADD', key('wip', queue), now + ttl, id)
  try('SADD', worker_executions_key(worker), member)
  try('EXPIRE', worker_executions_key(worker), ttl + GRACE_SECONDS)
  try('LREM', intermediate_key(queue), 1, id)
end

local skipped = 0
for _, queue in ipairs(all.queue) do
  local list = queue_key(queue)
  local id = type_of(list) == 'list' and redis.call('LINDEX', list, 0)
  while id do
    if is_job_id(id) and is_job(id) and not OVER[get(id, 'status')] then
      start(id, queue)
      return answer(id, queue)
    end
    redis.call('LPOP', list)
    skipped = skipped + 1
    if skipped == SKIPPED_MAX then
      return {'again'}
    end
    id = redis.call('LINDEX', list, 0)
  end
end
return {'nothing'}
