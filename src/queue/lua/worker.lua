-- What a worker writes about itself.
--
-- mode (register, update or unregister), worker, ttl (empty: as it is), field (name, value, ...), queue ...
-- Answers: written | taken | unregistered | foreign KEY

local name = worker_key(given.worker)
local fields = all.field

if not fits(name, 'hash') then
  return {'foreign', name}
end
local registered = redis.call('HEXISTS', name, 'birth') == 1
if given.mode == 'register' then
  local alive = registered and redis.call('HEXISTS', name, 'death') == 0
  -- The same birth again: the answer to the first time was lost.
  if alive and redis.call('HGET', name, 'birth') == given.birth and redis.call('HGET', name, 'pid') == given.pid then
    return {'written'}
  end
  if alive then
    return {'taken'}
  end
  redis.call('SADD', key('workers'), name)
  redis.call('DEL', name, worker_executions_key(given.worker))
  for _, queue in ipairs(all.queue) do
    try('SADD', key('workers', queue), name)
  end
elseif not registered then
  return {'unregistered'}
end
redis.call('HSET', name, unpack(fields))
if given.ttl ~= '' then
  redis.call('EXPIRE', name, given.ttl)
end
if given.mode == 'unregister' then
  try('SREM', key('workers'), name)
  for _, queue in ipairs(all.queue) do
    try('SREM', key('workers', queue), name)
  end
end
return {'written'}
