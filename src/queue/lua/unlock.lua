-- Lets go of a lock, if it is still one's own.
--
-- key, holder. Answers: done | other

if try('GET', given.key) == given.holder then
  redis.call('DEL', given.key)
  return {'done'}
end
return {'other'}
