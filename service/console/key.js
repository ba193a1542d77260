// Where the service asks for a key, so does the page. The browser forgets it with the tab.
export async function fetchWithKey(path, init = {}) {
  const send = () => {
    const key = sessionStorage.getItem("key");
    return fetch(path, key ? { ...init, headers: { ...init.headers, Authorization: `Bearer ${key}` } } : init);
  };
  let response = await send();
  while (response.status === 401) {
    const key = prompt("This service asks for an API key:");
    if (!key) break;
    sessionStorage.setItem("key", key.trim());
    response = await send();
  }
  return response;
}
