-- What every script begins with. A script is one step: others see all of it or nothing of it.
--
-- Redis undoes nothing of a script that ends in an error. So each one looks at everything first, and its first write is a
-- redis.call that Redis would refuse on a server that is full or read-only; from then on nothing is refused. Keys beside
-- the job's own are written by `try`: where somebody put another type there, the rest is done all the same.

-- Arguments are names and values; a name may come more than once.
local given, all = {}, {}
for index = 1, #ARGV, 2 do
  local name, value = ARGV[index], ARGV[index + 1]
  given[name] = value
  all[name] = all[name] or {}
  table.insert(all[name], value)
end

local function try(...)
  local answer = redis.pcall(...)
  if type(answer) == 'table' and answer.err then
    return false
  end
  return answer
end

-- The same names as in keys.rs.
local function key(...)
  return table.concat({given.prefix, ...}, ':')
end
local function job_key(id) return key('job', id) end
local function dependents_key(id) return key('job', id, 'dependents') end
local function dependencies_key(id) return key('job', '', id, 'dependencies') end
local function executions_key(id) return key('executions', id) end
local function execution_key(id, execution) return key('execution', id, execution) end
local function queue_key(queue) return key('queue', queue) end
local function intermediate_key(queue) return key('queue', queue, 'intermediate') end
local function worker_key(worker) return key('worker', worker) end
local function worker_executions_key(worker) return key('worker', worker, 'executions') end

-- One clock for all scores, that of the server.
local now = tonumber(redis.call('TIME')[1])

local function type_of(name)
  return redis.call('TYPE', name).ok
end

-- Whether the key can be written as this type.
local function fits(name, wanted)
  local found = type_of(name)
  return found == 'none' or found == wanted
end

local JOB_ID_BYTES_MAX = 512
local function is_job_id(id)
  return #id <= JOB_ID_BYTES_MAX and string.find(id, '^[%w_%-]+$') ~= nil
end

-- A hash without `data` is no job.
local function is_job(id)
  return type_of(job_key(id)) == 'hash' and redis.call('HEXISTS', job_key(id), 'data') == 1
end

-- A short field of a job that is a hash, or false. A long one is nothing that is compared or calculated with.
local FIELD_BYTES_MAX = 4096
local function get(id, field)
  local length = try('HSTRLEN', job_key(id), field)
  if not length or length == 0 or length > FIELD_BYTES_MAX then
    return false
  end
  return try('HGET', job_key(id), field)
end

-- A whole number, or the default. Numbers beyond 32 bits are nobody's lifetime.
local function whole(text, default)
  if text and #text <= 10 and string.find(text, '^%-?%d+$') then
    return tonumber(text)
  end
  return default
end

local function expire(name, seconds)
  if seconds >= 0 then
    try('EXPIRE', name, seconds)
  else
    try('PERSIST', name)
  end
end

local function score(seconds)
  if seconds >= 0 then
    return tostring(now + seconds)
  end
  return '+inf'
end

-- A job that waits in a queue only for so long.
local function expire_waiting(id)
  local ttl = whole(get(id, 'ttl'), -1)
  if ttl >= 0 then
    try('EXPIRE', job_key(id), ttl)
  else
    try('PERSIST', job_key(id))
  end
end

-- Puts a job whose hash was written already into a list whose type was looked at.
local function push(queue, id, front)
  try('SADD', key('queues'), queue_key(queue))
  redis.call(front and 'LPUSH' or 'RPUSH', queue_key(queue), id)
  expire_waiting(id)
end

-- The members by which a job may be in the registry of what is started: alone, or with one of its executions.
local function started_members(id)
  local members = {id}
  for _, execution in ipairs(try('ZRANGE', executions_key(id), 0, -1) or {}) do
    table.insert(members, id .. ':' .. execution)
  end
  return members
end

-- Takes a job out of what is started, and every execution with it.
local function forget_executions(id, queue)
  for _, member in ipairs(started_members(id)) do
    try('ZREM', key('wip', queue), member)
  end
  for _, execution in ipairs(try('ZRANGE', executions_key(id), 0, -1) or {}) do
    try('DEL', execution_key(id, execution))
  end
  try('DEL', executions_key(id))
end

-- Whether this run is still the worker's. Another process of the same name would have an execution of its own.
local function is_mine(id, worker, execution)
  if not is_job(id) or get(id, 'worker_name') ~= worker then
    return false
  end
  local executions = try('ZCARD', executions_key(id)) or 0
  return executions == 0 or try('ZSCORE', executions_key(id), execution) ~= false
end

-- The fields of a job that are read, without those that are too long; and the names of the latter.
local JOB_FIELDS = {
  'created_at', 'enqueued_at', 'started_at', 'ended_at', 'last_heartbeat', 'data', 'origin', 'description', 'timeout',
  'result_ttl', 'failure_ttl', 'ttl', 'status', 'worker_name', 'dependency_id', 'dependency_ids',
  'allow_dependency_failures', 'enqueue_at_front', 'retries_left', 'retry_intervals', 'meta', 'exc_info',
}
local function read_fields(name, fields)
  local values, long = {}, {}
  for _, field in ipairs(fields) do
    local length = redis.call('HSTRLEN', name, field)
    if length > tonumber(given.bytes_max) then
      table.insert(long, field)
    else
      local value = redis.call('HGET', name, field)
      if value then
        table.insert(values, field)
        table.insert(values, value)
      end
    end
  end
  return values, long
end
