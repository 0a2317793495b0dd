"""Spanish words for the gates: data only, in the form of `lexicon_en`."""

from __future__ import annotations

STOP = """
el la los las un una unos unas de del al a y o u e pero que qué quien quién quienes cual cuál cuales cuáles como cómo cuando cuándo donde dónde adónde
cuanto cuánto cuanta cuánta cuantos cuántos cuantas cuántas por para con sin sobre bajo entre hacia hasta desde en es son soy eres somos era eran ser
fue fueron está están estoy estar estaba hay haber ha he has han había tengo tiene tienen tener tenía hace hacer hago hacen puedo puede pueden podemos
poder podría debo debe deben deber debería voy va van ir me te se le les lo nos os mi mis tu tus su sus nuestro nuestra nuestros vuestro yo tú él ella
ellos ellas usted ustedes nosotros este esta estos estas ese esa esos esas eso esto aquel aquella no sí si ni más menos muy mucho mucha muchos muchas poco
también ya aún todavía siempre nunca nada nadie algo alguien algún alguna algunos algunas todo toda todos todas otro otra otros otras mismo misma
porque pues así entonces luego después antes durante según cada tan tanto aquí allí ahora quiero quiere quieren sea sería será
"""
COMMON = """
pregunta respuesta gente persona personas hombre mujer niño niños hijo año años día días tiempo hora horas semana mes meses casa trabajo dinero ciudad
país mundo vida mano cabeza cosa cosas nombre parte tipo forma manera modo problema ejemplo fin final principio razón caso lugar palabra imagen libro
coche carro ordenador computadora teléfono móvil celular internet agua comer beber comida escuela médico empresa cliente precio coste costo número fecha
archivo carpeta programa contraseña usuario encontrar buscar decir ver saber conocer venir tomar dar obtener usar utilizar cambiar crear abrir cerrar
comprar vender pagar aprender leer escribir nuevo nueva viejo grande pequeño bueno buena malo largo corto rápido lento hoy mañana ayer importante posible
"""
WEAK = """
mejor mejores bueno buena buenos buenas bien forma formas manera maneras modo método métodos razón razones consejo consejos idea ideas gente persona
personas alguien significa significado definición explicar explica decir encontrar hacer hace fácil fácilmente rápido rápidamente posible exactamente
realmente actualmente importante diferencia pregunta respuesta necesito necesita ejemplo existe sirve funciona permite principal principales
"""
NEGATORS = "no sin nunca jamás nadie nada ningún ninguno ninguna tampoco ni"
SOFT_NEGATORS = "evitar prevenir impedir dejar parar prohibir rechazar excluir"
AGAINST = "combatir luchar curar tratar eliminar quitar reducir superar borrar bloquear cancelar deshacerse proteger controlar acabar"
NEGATION_IDIOMS = ("o no", "no solo", "no sólo", "no sé", "no entiendo", "no es así")
CONTRACTIONS = {"q": "que", "xq": "por qué", "porq": "porque", "pq": "por qué", "tb": "también"}
IRREGULAR = """
soy=ser es=ser son=ser era=ser fue=ser fueron=ser estoy=estar está=estar están=estar voy=ir va=ir van=ir tengo=tener tiene=tener tienen=tener puedo=poder
puede=poder pueden=poder hago=hacer hace=hacer hacen=hacer hecho=hacer digo=decir dice=decir dicho=decir visto=ver escrito=escribir abierto=abrir abre=abrir
abro=abrir cierra=cerrar cierro=cerrar cerrado=cerrar roto=romper muerto=morir murió=morir muere=morir puesto=poner vuelto=volver peces=pez luces=luz veces=vez
compro=comprar vendo=vender cuesta=costar cuestan=costar
"""
ANTONYMS = """
aumentar/disminuir aumentar/reducir aumentar/bajar subir/bajar subida/bajada aumento/disminución aumento/reducción incrementar/reducir crecer/disminuir
agrandar/reducir ampliar/reducir alargar/acortar engordar/adelgazar ensanchar/estrechar máximo/mínimo máxima/mínima max/min alto/bajo alta/baja
superior/inferior más/menos mayor/menor mayores/menores abrir/cerrar abierto/cerrado abierta/cerrada apertura/cierre empezar/terminar comenzar/terminar
empezar/acabar iniciar/detener iniciar/terminar arrancar/parar inicio/fin principio/final primero/último primera/última primer/último temprano/tarde
antes/después anterior/siguiente anterior/posterior previo/siguiente pasado/futuro pasada/próxima antiguo/nuevo antigua/nueva viejo/nuevo viejo/joven vieja/nueva
importar/exportar importación/exportación entrada/salida entrar/salir entrante/saliente llegada/salida llegar/salir llegar/partir venir/ir
dentro/fuera interior/exterior interno/externo comprar/vender compra/venta comprador/vendedor prestar/devolver alquilar/comprar inquilino/propietario
débito/crédito depositar/retirar depósito/retiro ingresar/retirar ingresos/gastos ganancia/pérdida beneficio/pérdida ganar/perder oferta/demanda
izquierda/derecha izquierdo/derecho este/oeste norte/sur horizontal/vertical fila/columna ancho/alto largo/ancho delante/detrás adelante/atrás
empujar/tirar subir/descargar enviar/recibir envío/recepción remitente/destinatario emisor/receptor dar/recibir dar/quitar dar/tomar aceptar/rechazar
aprobar/rechazar aprobar/suspender permitir/prohibir permitido/prohibido legal/ilegal activar/desactivar activación/desactivación habilitar/deshabilitar
encender/apagar prender/apagar enchufar/desenchufar conectar/desconectar conexión/desconexión atar/desatar bloquear/desbloquear instalar/desinstalar
suscribir/desuscribir mostrar/ocultar visible/invisible visible/oculto cifrar/descifrar encriptar/desencriptar comprimir/descomprimir
guardar/borrar guardar/eliminar crear/borrar crear/eliminar crear/destruir añadir/eliminar añadir/quitar agregar/eliminar agregar/quitar poner/quitar
sumar/restar suma/resta multiplicar/dividir incluir/excluir insertar/eliminar construir/destruir construir/demoler montar/desmontar armar/desarmar
juntos/separados unir/separar combinar/dividir llenar/vaciar lleno/vacío llena/vacía cargar/descargar calentar/enfriar caliente/frío calor/frío
congelar/descongelar mojado/seco húmedo/seco duro/blando fácil/difícil sencillo/complicado simple/complejo fuerte/débil apretado/flojo apretar/aflojar
grueso/delgado grueso/fino gordo/flaco gordo/delgado ancho/estrecho profundo/superficial grande/pequeño grande/chico grandes/pequeños largo/corto
larga/corta pesado/ligero claro/oscuro blanco/negro día/noche mañana/noche verano/invierno primavera/otoño rápido/lento rápidamente/lentamente
acelerar/frenar cerca/lejos cercano/lejano bueno/malo buena/mala buenos/malos bien/mal mejor/peor mejores/peores positivo/negativo ventaja/desventaja
ventajas/desventajas beneficios/riesgos amar/odiar gustar/odiar amigo/enemigo feliz/triste feliz/infeliz reír/llorar rico/pobre caro/barato cara/barata
gratis/pago verdadero/falso correcto/incorrecto válido/inválido real/falso verdad/mentira éxito/fracaso triunfar/fracasar victoria/derrota vivo/muerto
vida/muerte nacimiento/muerte nacer/morir nació/murió sano/enfermo salud/enfermedad agudo/crónico benigno/maligno masculino/femenino hombre/mujer
hombres/mujeres niño/niña niños/niñas chico/chica esposo/esposa marido/mujer padre/madre hijo/hija hermano/hermana tío/tía rey/reina abuelo/abuela
padres/hijos predecesor/sucesor profesor/alumno médico/paciente jefe/empleado empleador/empleado contratar/despedir ataque/defensa atacar/defender
víctima/agresor culpable/inocente leer/escribir lectura/escritura hablar/escuchar pregunta/respuesta preguntar/responder causa/efecto
causa/consecuencia causas/consecuencias causas/síntomas síntomas/tratamiento absoluto/relativo activo/pasivo activo/inactivo ácido/básico
automático/manual disponible/agotado obligatorio/opcional obligatorio/voluntario constante/variable peligroso/seguro seguro/inseguro directo/indirecto
nacional/internacional nacional/extranjero soltero/casado casar/divorciar matrimonio/divorcio bruto/neto privado/público permanente/temporal con/sin
sobre/bajo encima/debajo arriba/abajo contra/favor igual/diferente par/impar limpio/sucio fresco/podrido crudo/cocido dulce/salado dulce/amargo
ruidoso/silencioso cansado/descansado dormir/despertar inhalar/exhalar confirmar/cancelar reservar/cancelar pedir/cancelar renovar/cancelar
siempre/nunca frecuentemente/raramente hipertensión/hipotensión hiperglucemia/hipoglucemia hipertiroidismo/hipotiroidismo sobrepeso/desnutrición
mayoría/minoría singular/plural todo/nada muchos/pocos mucho/poco ida/vuelta
"""
CONTRADICTORY = "seguro/peligroso seguro/inseguro verdadero/falso permitido/prohibido legal/ilegal posible/imposible válido/inválido correcto/incorrecto sano/enfermo"
SYNONYMS = """
coche=carro=auto=automóvil=vehículo médico=doctor teléfono=móvil=celular ordenador=computadora=pc=computador contraseña=clave precio=coste=costo=cuesta
cambiar=modificar=restablecer borrar=eliminar=quitar comprar=adquirir rápido=veloz piso=apartamento=departamento casa=hogar dinero=plata
trabajo=empleo empresa=compañía=negocio error=problema=fallo empezar=comenzar=iniciar terminar=acabar=finalizar vacaciones=viaje medicamento=medicina=fármaco
pastilla=píldora=tableta foto=imagen=fotografía correo=email=mail archivo=documento=fichero carpeta=directorio instalar=configurar usar=utilizar=emplear
hacer=crear=preparar=fabricar cocinar=preparar=hacer reparar=arreglar=solucionar=resolver aumentar=incrementar=subir reducir=disminuir=bajar importante=esencial
razón=causa=motivo forma=manera=modo=método diferencia=distinción funcionar=servir=funciona obtener=conseguir=recibir viajar=ir vivir=residir adelgazar=perder=peso
curar=tratar=sanar alumno=estudiante profesor=maestro hijo=niño bonito=lindo=hermoso enojado=enfadado manejar=conducir
"""
QUESTION = (
    (r"cu[aá]nto (?:tiempo|dura|tarda)|cu[aá]nt[oa]s (?:días|semanas|meses|años|horas|minutos)|qué duración|cuál es la duración", "how long"),
    (r"cada cu[aá]nto|cu[aá]ntas veces|con qué frecuencia", "how often"),
    (r"qué edad|a qué edad|cu[aá]ntos años tiene", "how old"),
    (r"a qué distancia", "how far"),
    (r"cu[aá]nt[oa]s|cuál es el número", "how many"),
    (r"cu[aá]nt[oa]|cuál es el (?:precio|coste|costo)|qué precio|cuál es la cantidad", "how much"),
    (r"por qué|porqué|por cuál razón|cuál es la (?:razón|causa)|cuáles son las (?:razones|causas)|a qué se debe", "why"),
    (r"cu[aá]ndo|a qué hora|en qué año|qué día|en qué fecha|en qué momento|desde cuándo", "when"),
    (r"adónde|a dónde", "where to"),
    (r"de dónde", "where from"),
    (r"d[oó]nde|en qué (?:lugar|ciudad|país|sitio)", "where"),
    (r"^como|cómo|de qué (?:forma|manera|modo)|cuál es la (?:mejor )?(?:forma|manera)|qué (?:debo|puedo|tengo que) hacer|hay (?:alguna|una) (?:forma|manera)", "how"),
    (r"quién(?:es)?|^quien(?:es)?", "who"),
    (r"qué|cuál(?:es)?|^que|^cual(?:es)?", "what"),
)
PADDING_BEFORE = (
    r"(?:hola|buenos días|buenas tardes|buenas noches|buenas|estimados|hey)(?: (?:a todos|todos|equipo|amigos|señor|señora))?"
    r"(?= *[,.!:;¿\n-]| (?:quiero|cómo|como|qué|que|cuál|cuando|cuándo|dónde|quién|por qué|pueden|puedes|puede|tengo)\b|$)",
    r"(?:una (?:pequeña )?pregunta|tengo una (?:pequeña )?(?:pregunta|duda)|pregunta rápida|una duda)(?: \w+)?(?= *[,.!:;¿\n-])",
    r"(?:me )?(?:puedes|podrías|puede|podría|pueden|podrían)(?: por favor)? (?:decir(?:me|nos)?|explicar(?:me|nos)?|indicar(?:me)?|ayudarme a entender)(?: por favor)?(?: si)?",
    r"(?:quisiera|quiero|me gustaría|quería|necesito|deseo) (?:saber|preguntar|entender)(?: si)?",
    r"(?:me pregunto|me preguntaba|estaba pensando)(?: si)?",
    r"(?:sabes|sabe usted|alguien sabe|saben|sabrías|sabría)(?: si| (?=cómo|como|dónde|donde|cuándo|cuando|por qué|qué|cuál|quién|cuánto))",
    r"(?:por favor|disculpe|disculpa|perdón|perdone|oye|oiga|bueno|dime|dígame)(?= *,| *¿| (?:cómo|dónde|cuándo|por qué|qué|cuál|quién|cuánto)\b)",
)
PADDING_AFTER = (
    r"(?:muchas gracias|muchísimas gracias|mil gracias|gracias)(?: (?:de antemano|por su ayuda|por tu ayuda|por la ayuda|a todos|por adelantado))*",
    r"(?:por favor|porfa|saludos|un saludo|buen día|verdad|cierto|no es así)",
)
