-- Every worker that is registered.
--
-- bytes_max. Answers: workers, then the key and the fields of each

local WORKERS_MAX = 10000
local FIELDS = {
  'birth', 'last_heartbeat', 'death', 'shutdown_requested_date', 'queues', 'pid', 'hostname', 'ip_address', 'version',
  'python_version', 'state', 'current_job', 'current_job_working_time', 'successful_job_count', 'failed_job_count',
  'total_working_time',
}
local answer = {'workers'}
for index, name in ipairs(try('SMEMBERS', key('workers')) or {}) do
  if index > WORKERS_MAX then
    break
  end
  if type_of(name) == 'hash' then
    table.insert(answer, name)
    table.insert(answer, (read_fields(name, FIELDS)))
  end
end
return answer
