-- Makes a job, or sees to it that one is where its status says.
--
-- mode (enqueue or ensure), id, queue, front (0 or 1), date, field (name, value, ... of the hash), parent ...
-- Answers: queued | deferred | exists | present STATUS | requeued | missing PARENT | foreign KEY

local id, job = given.id, job_key(given.id)
local parents = all.parent or {}

-- Whether every parent has finished; the first that is not there.
local function look_at_parents()
  local finished = true
  for _, parent in ipairs(parents) do
    if not is_job(parent) then
      return false, parent
    end
    finished = finished and get(parent, 'status') == 'finished'
  end
  return finished, nil
end

-- The first key that somebody uses for something else.
local function foreign(queue)
  local wanted = {{queue_key(queue), 'list'}, {key('deferred', queue), 'zset'}, {dependencies_key(id), 'set'}}
  for _, parent in ipairs(parents) do
    table.insert(wanted, {dependents_key(parent), 'set'})
  end
  for _, pair in ipairs(wanted) do
    if not fits(pair[1], pair[2]) then
      return pair[1]
    end
  end
  return nil
end

local function defer(queue)
  try('SADD', key('queues'), queue_key(queue))
  redis.call('ZADD', key('deferred', queue), now, id)
  for _, parent in ipairs(parents) do
    if is_job(parent) then
      redis.call('SADD', dependents_key(parent), id)
    end
    redis.call('SADD', dependencies_key(id), parent)
  end
end

local function make()
  local finished, missing = look_at_parents()
  if missing then
    return {'missing', missing}
  end
  local obstacle = foreign(given.queue)
  if obstacle then
    return {'foreign', obstacle}
  end
  -- A sign that came too late may have left a hash without data.
  redis.call('HSET', job, unpack(all.field))
  try('DEL', dependencies_key(id))
  if finished then
    redis.call('HSET', job, 'status', 'queued', 'enqueued_at', given.date)
    push(given.queue, id, given.front == '1')
    return {'queued'}
  end
  redis.call('HSET', job, 'status', 'deferred')
  defer(given.queue)
  return {'deferred'}
end

local function is_waiting(queue)
  return try('LPOS', queue_key(queue), id) or try('LPOS', intermediate_key(queue), id)
end

-- A job that is there: back to where its status says, if it is not there.
local function mend()
  local status = get(id, 'status') or ''
  local queue = get(id, 'origin') or given.queue
  local obstacle = foreign(queue)
  if obstacle then
    return {'foreign', obstacle}
  end
  local lost = (status == 'queued' and not is_waiting(queue))
    or (status == 'scheduled' and not try('ZSCORE', key('scheduled', queue), id))
  local deferred_lost = status == 'deferred' and not try('ZSCORE', key('deferred', queue), id)
  local finished = look_at_parents()
  if lost or (deferred_lost and finished) then
    redis.call('HSET', job, 'status', 'queued', 'enqueued_at', given.date)
    push(queue, id, get(id, 'enqueue_at_front') == '1')
    return {'requeued'}
  end
  if deferred_lost then
    defer(queue)
    return {'requeued'}
  end
  return {'present', status}
end

if not fits(job, 'hash') then
  return {'foreign', job}
end
if not is_job(id) then
  return make()
end
if given.mode == 'ensure' then
  return mend()
end
return {'exists'}
