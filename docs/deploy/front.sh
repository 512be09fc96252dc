#!/usr/bin/env bash
# nginx in front of the server: asks for a password, over TLS: docs/deploy/front.sh FOLDER PORT [SERVER_PORT]
set -euo pipefail
umask 077
usage="usage: docs/deploy/front.sh FOLDER PORT [SERVER_PORT]"
folder=$(cd "${1:?$usage}" && pwd)
port=${2:?$usage}
PATH="$PATH:/usr/sbin"
if [ ! -s "$folder/passwords" ]; then
    echo "There are no passwords yet. Add each user, with a password that the command asks for:" >&2
    echo "  (umask 077; echo \"anna:\$(openssl passwd -6)\" >> $folder/passwords)" >&2
    exit 2
fi
name=$(hostname -f)
addresses=$(for address in 127.0.0.1 $(hostname -I); do printf ',IP:%s' "$address"; done)
if [ ! -f "$folder/certificate.pem" ]; then # put the lab's own there instead, if it has one
    openssl req -x509 -newkey rsa:3072 -nodes -days 800 -subj "/CN=$name" \
        -addext "subjectAltName=DNS:$name,DNS:localhost$addresses" \
        -keyout "$folder/key.pem" -out "$folder/certificate.pem" 2>/dev/null
    chmod 644 "$folder/certificate.pem" # it is no secret
fi
mkdir -p "$folder/nginx"
cat >"$folder/nginx.conf" <<EOF
pid $folder/nginx/pid;
events {}
http {
    access_log $folder/nginx/access.log;
    client_body_temp_path $folder/nginx/body;
    proxy_temp_path $folder/nginx/proxy;
    fastcgi_temp_path $folder/nginx/fastcgi;
    uwsgi_temp_path $folder/nginx/uwsgi;
    scgi_temp_path $folder/nginx/scgi;
    # A browser sends its password with whatever any page makes it ask for: only this server's own pages may ask.
    map "\$http_origin https://\$http_host" \$is_of_another_page {
        default 1;
        "~^ " 0;
        "~^(.+) \1\$" 0;
    }
    server {
        listen $port ssl;
        ssl_certificate $folder/certificate.pem;
        ssl_certificate_key $folder/key.pem;
        auth_basic "MLflow";
        auth_basic_user_file $folder/passwords;
        client_max_body_size 0;
        location / {
            if (\$is_of_another_page) { return 403; }
            proxy_pass http://127.0.0.1:${3:-5000};
            proxy_set_header Origin "";
            proxy_set_header Authorization "";
        }
    }
}
EOF
echo "https://$name:$port (certificate: $folder/certificate.pem)"
exec nginx -c "$folder/nginx.conf" -e "$folder/nginx/error.log" -g "daemon off;"
